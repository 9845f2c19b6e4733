// Tables whose columns do not fit are set in small type, and where that is not enough stacked: a cell a line, with the heading of its column in front of it.
// A button unfolds all sources of a page.
(() => {
  const tables = () => document.querySelectorAll('.bd-article table')

  const fits = table => table.offsetWidth <= table.parentElement.clientWidth &&
    [...table.querySelectorAll('th, td')].every(cell => cell.scrollWidth <= cell.clientWidth + 1)

  const name = table => {
    const rows = [...table.querySelectorAll('thead tr')]
    const heads = rows.length ? [...rows[0].cells].map((_, n) => rows.map(row => row.cells[n]?.textContent.trim())
      .filter(Boolean).join(', ')) : []
    table.querySelectorAll('tbody tr').forEach(row => [...row.cells].forEach((cell, n) => {
      cell.dataset.head = heads[n] ?? ''
      cell.classList.toggle('empty', !cell.textContent.trim() && !cell.querySelector('img'))
    }))
  }

  const lay = () => {  // all changes before all measurements: one layout of the page for each step
    let wide = [...tables()]
    wide.forEach(table => table.classList.remove('compact', 'stacked'))
    for (const step of ['compact', 'stacked']) {
      wide = wide.filter(table => table.offsetParent && !fits(table))
      wide.forEach(table => table.classList.add(step))
    }
  }

  const unfold = () => {
    const sources = [...document.querySelectorAll('details.source')]
    const place = document.querySelector('div.module p')
    if (!place || !sources.length) return
    const button = document.createElement('button')
    const folded = () => sources.some(each => !each.open)
    const say = () => { button.textContent = folded() ? 'unfold all source' : 'fold all source' }
    button.className = 'unfold'
    button.onclick = () => {
      const open = folded()
      sources.forEach(each => { each.open = open })
      say()
    }
    say()
    place.append(' ', button)
  }

  document.addEventListener('DOMContentLoaded', () => {
    tables().forEach(name)
    unfold()
    lay()
    document.querySelectorAll('details').forEach(each => each.addEventListener('toggle', lay))
    let width = innerWidth
    addEventListener('resize', () => { if (innerWidth !== width) { width = innerWidth; lay() } })
  })
  addEventListener('load', lay)
})()
