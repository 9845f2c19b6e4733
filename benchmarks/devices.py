"Tables of benchmarks that hold rows of several devices."
from pathlib import Path

import pandas as pd

from regpre_nb.data.files import replacing


def device_of(environment: dict) -> str:
    "What a table calls the device of a `run_environment`: cpu, or the model of a GPU."
    return 'cpu' if environment['device'] == 'cpu' else environment['device_name']


def of_others(path: Path, device: str) -> pd.DataFrame:
    "The rows that a table has of other devices; none where there is no table."
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=['device'])
    return table[table.device != device]


def write_beside(path: Path, others: pd.DataFrame, rows: list[dict]) -> None:
    "Write rows of this device after those of others."
    with replacing(path) as unfinished:
        pd.concat([each for each in (others, pd.DataFrame(rows)) if len(each)]).to_csv(unfinished, index=False)
