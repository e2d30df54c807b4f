"""Writes the corpus: python -m tests.corpus FOLDER"""

import sys
from pathlib import Path

from . import cases

if len(sys.argv) != 2:
    sys.exit("say where the files are to be written: python -m tests.corpus FOLDER")
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for case in cases():
    (folder / case.name).write_bytes(case.content)
print(f"{len(cases())} files in {folder}")
