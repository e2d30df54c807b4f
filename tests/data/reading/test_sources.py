"""Is a source found where it is said to be: a file, a folder, a pattern, an adapter, the Hub?"""

import gzip
import json
import sys

import pytest
from reading_rows import CSV, ROW, only_problem, read, write

from data.reading import sources
from data.schema import DataError


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    write(tmp_path, "{}", "train.jsonl")
    _, field, text = only_problem(str(tmp_path / "trian.jsonl"))
    assert field == "file"
    assert f'did you mean "{tmp_path / "train.jsonl"}"' in text
    assert "no such file" in only_problem("nowhere.csv")[2]
    assert "no such file" in only_problem("word")[2]


def test_an_adapter_is_called_and_its_rows_counted(tmp_path, monkeypatch):
    code = (
        'def rows():\n    yield {"prompt": "a"}\n    yield 3\n    yield {"prompt": "b"}\ndef none():\n    return []\n'
    )
    (tmp_path / "our_adapter.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows, problems = read("our_adapter:rows")
    assert rows == [({"prompt": "a"}, 1), ({"prompt": "b"}, 3)]
    assert problems[0][0] == 2
    assert "no rows" in only_problem("our_adapter:none")[2]
    assert "has no function other" in only_problem("our_adapter:other")[2]
    assert "no Python module absent_adapter" in only_problem("absent_adapter:rows")[2]


def test_a_mistake_inside_an_adapter_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "broken_adapter.py").write_text("import absent_module_of_theirs\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="absent_module_of_theirs"):
        list(sources.read("broken_adapter:rows", []))


class FakeDatasets:
    """Stands for the `datasets` package: notes what it was asked and gives what it was told."""

    def __init__(self, gives):
        self.gives = gives
        self.asked = None

    def load_dataset(self, *args, **kwargs):
        self.asked = (args, kwargs)
        return self.given()

    def load_from_disk(self, path):
        self.asked = path
        return self.given()

    def given(self):
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


@pytest.mark.parametrize(
    ("source", "name", "config", "revision", "split"),
    [
        ("org/name", "org/name", None, None, None),
        ("org/na.me-1:con fig@v1.0#train[:5]", "org/na.me-1", "con fig", "v1.0", "train[:5]"),
        ("org/name@main", "org/name", None, "main", None),
        ("org/name#test", "org/name", None, None, "test"),
    ],
)
def test_a_hub_id_is_taken_apart(monkeypatch, source, name, config, revision, split):
    fake = FakeDatasets([ROW])
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert read(source) == ([(ROW, 1)], [])
    assert fake.asked == ((name, config), {"revision": revision, "split": split, "streaming": False})
    assert list(sources.read(source, [], max_rows=1)) and fake.asked[1]["streaming"]


def test_a_hub_set_of_several_splits_asks_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", FakeDatasets({"train": [ROW], "test": [ROW]}))
    assert "several splits; choose one: #train, #test" in only_problem("org/name")[2]
    monkeypatch.setitem(sys.modules, "datasets", FakeDatasets({"only": [ROW]}))
    assert read("org/name") == ([(ROW, 1)], [])


def test_a_hub_that_does_not_answer_is_one_problem_with_its_cause(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", FakeDatasets(ConnectionError("no network")))
    assert "the Hub does not give it (ConnectionError: no network)" in only_problem("org/name")[2]


def test_a_file_name_is_never_asked_of_the_hub(monkeypatch):
    fake = FakeDatasets([ROW])
    monkeypatch.setitem(sys.modules, "datasets", fake)
    for source in ("files/rows.jsonl", "./files/rows", "/no/rows", "files/rows.csv.gz"):
        assert "no such file" in only_problem(source)[2]
    assert fake.asked is None


def test_a_saved_data_set_is_read_from_its_folder(tmp_path):
    import datasets

    rows = datasets.Dataset.from_list([ROW, {"prompt": "你好", "completion": "NA"}])
    rows.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=rows, test=rows.select([1])).save_to_disk(str(tmp_path / "two"))
    assert read(str(tmp_path / "one")) == ([(ROW, 1), ({"prompt": "你好", "completion": "NA"}, 2)], [])
    assert read(f"{tmp_path}/two#test")[0] == [({"prompt": "你好", "completion": "NA"}, 1)]
    assert "several splits" in only_problem(f"{tmp_path}/two")[2]
    assert "no split dev" in only_problem(f"{tmp_path}/two#dev")[2]
    assert "no splits" in only_problem(f"{tmp_path}/one#train")[2]
    for broken in (tmp_path / "one").glob("*.arrow"):
        broken.unlink()
    assert "no whole saved data set" in only_problem(str(tmp_path / "one"))[2]


def test_a_folder_or_a_pattern_is_all_its_files_in_the_order_of_their_names(tmp_path):
    (tmp_path / "inner").mkdir()
    write(tmp_path / "inner", CSV, "a.csv")
    write(tmp_path, gzip.compress(json.dumps(ROW).encode()), "b.jsonl.gz")
    write(tmp_path, "not data", "README.md")
    for source, names in [
        (tmp_path, ["b.jsonl.gz", "inner/a.csv", "inner/a.csv"]),
        (tmp_path / "*", ["b.jsonl.gz"]),
        (tmp_path / "**" / "*.csv", ["inner/a.csv"] * 2),
    ]:
        assert [row.file for row in sources.read(str(source), [])] == [str(tmp_path / name) for name in names]
    assert "no data file in it" in only_problem(str(tmp_path / "*.md"))[2]
    (tmp_path / "empty").mkdir()
    assert "no data file in it" in only_problem(str(tmp_path / "empty"))[2]


def test_a_file_cut_off_stops_the_folder(tmp_path):
    write(tmp_path, json.dumps(ROW), "a.jsonl")
    broken = write(tmp_path, "[", "b.json")
    write(tmp_path, json.dumps(ROW), "c.jsonl")
    with pytest.raises(DataError) as caught:
        list(sources.read(str(tmp_path), []))
    assert [(problem.file, problem.line) for problem in caught.value.problems] == [(broken, 1)]
