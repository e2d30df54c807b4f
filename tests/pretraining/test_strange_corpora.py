"""What becomes of corpora that nobody thought of: files whose name does not say what they are, and texts without an end of anything?"""

import gzip
import random
import time
from pathlib import Path

import pytest

from data.reading.sources import read
from data.schema import DataError
from pipeline.pretraining.causal import CAUSAL
from pipeline.pretraining.tokenizer import learned
from pipeline.settings.pretrain import Pretrain

SENTENCES = ["The film was long.", "It had a river, and a boat.", "Nobody spoke of it again."]


@pytest.mark.parametrize("name", ["corpus", "corpus.log", "corpus.tex", "CORPUS", "corpus.log.gz"])
def test_a_text_whose_name_says_nothing_is_no_table(tmp_path: Path, name: str) -> None:
    """As CSV its first line would be the name of a column, and be missing from the corpus in silence."""
    path = tmp_path / name
    data = "\n\n".join(SENTENCES).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(DataError, match=r"neither \.csv nor \.txt"):
        list(read(str(path), [], sample_by="line"))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("corpus.csv", "text\nThe film was long.\n"),
        ("corpus", '{"text": "The film was long."}\n'),
        ("corpus.TXT", "The film was long.\n"),
    ],
)
def test_a_name_or_the_first_bytes_say_what_it_is(tmp_path: Path, name: str, data: str) -> None:
    (tmp_path / name).write_text(data)
    problems: list = []
    (found,) = read(str(tmp_path / name), problems, sample_by="line")
    assert found.row is not None and found.row["text"] == "The film was long." and not problems


@pytest.mark.parametrize("signs", ["这部电影非常好看我们都很喜欢酒店的服务态度不错", "ACGT", "=-#*", " \t", "ก้นิ่ำ"])
def test_a_run_that_never_ends_is_learned_in_time(signs: str) -> None:
    """Merges in one part of n signs cost n², so a line of 60,000 took a quarter of a minute, and one of a million would take an hour."""
    draw = random.Random(0)
    text = "".join(draw.choice(signs) for _ in range(60_000))
    section = Pretrain(source="x", vocab_size=265)
    begun = time.process_time()
    rules = learned([text, *SENTENCES * 9], section, CAUSAL.special)
    assert time.process_time() - begun < 5
    ids = rules.encode(text, add_special_tokens=False).ids
    assert rules.decode(ids) == text
