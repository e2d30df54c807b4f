"""What does an entry in LLaMA-Factory's dataset_info.json say: where do the rows lie, and what are their fields called?

An entry turns into a source, one of our formats, and the columns under which the fields of that format stand. As there,
a column that the entry does not name is not read.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.reading.flaws import called, stop
from data.reading.options import Options

LISTING = "dataset_info.json"
LARGEST = 1 << 24
"""Bytes of such a listing."""
PLACES = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "file_name")
"""Where rows may lie, in the order in which LLaMA-Factory looks."""
PLAIN = ("revision", "subset", "split", "formatting", "ranking", "columns", "tags")
COLUMNS = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    "sharegpt": {"messages": "conversations"},
}
"""The columns of an entry that names none, which are our names of these fields too."""
SHARED = ("system", "tools", "chosen", "rejected")
UNREADABLE = {"images": "images", "videos": "videos", "audios": "sound", "kto_tag": "single judgements"}
TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}


@dataclass(frozen=True)
class Entry:
    """`columns` maps our names to theirs; `keys` and `speakers` what messages say to what ShareGPT's say."""

    source: str
    format: str
    columns: Mapping[str, str]
    keys: Mapping[str, str]
    speakers: Mapping[str, str]

    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with the columns that are named alone, and ShareGPT's words in its messages."""
        return {key: self._messages(value) for key, value in row.items() if key in self.columns.values()}

    def _messages(self, value: Any) -> Any:
        if not self.keys:
            return value
        if isinstance(value, list):
            return [self._message(one) for one in value]
        return self._message(value)

    def _message(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        made = {self.keys.get(key, key): inner for key, inner in value.items()}
        for key in ("from", "role"):
            if isinstance(made.get(key), str):
                made[key] = self.speakers.get(made[key], made[key])
        return made

    def options(self, options: Options) -> Options:
        """How the rows are to be read; what the user said comes first."""
        # Where the user names a form and its columns, or another meaning of a column, theirs has no say any more.
        own = {} if options.format and options.columns else self.columns
        taken = set(options.columns.values())
        columns = {name: column for name, column in own.items() if column not in taken} | dict(options.columns)
        unused = tuple(column for column in self.columns.values() if column not in columns.values())
        return replace(options, format=options.format or self.format, columns=columns, ignore=options.ignore + unused)


def find(source: str) -> Entry | None:
    """The entry that `folder#name` or `folder/dataset_info.json#name` names; None where there is no such listing.

    Raises DataError where the listing or the entry cannot be used.
    """
    whole = Path(source).expanduser()
    if whole.is_file() and whole.name != LISTING:
        return None
    place, _, name = source.partition("#")
    path = Path(place).expanduser()
    listing = path if path.name == LISTING else path / LISTING
    if not listing.is_file():
        return None
    file = str(listing)
    entries = _entries(listing)
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=1)
        known = "choose one: " + ", ".join(f"#{one}" for one in entries)
        what = f'it lists no data set "{name}"' if name else "none of its data sets is named"
        stop(file, None, "name", what, f'did you mean "#{near[0]}"? ({known})' if near else known)
    entry = entries[name]
    if not isinstance(entry, dict):
        stop(file, None, name, f"the entry is {called(entry)}, not an object", 'write {"file_name": …}')
    return _entry(entry, name, listing)


def _entries(listing: Path) -> dict[str, Any]:
    file = str(listing)
    try:
        if listing.stat().st_size > LARGEST:
            stop(file, None, "file", f"it has more than {LARGEST // 2**20} MB, a listing of few lines", "name the rows")
        entries = json.loads(listing.read_text(encoding="utf-8-sig"))
    except OSError as error:
        stop(file, None, "file", f"it cannot be read ({error.strerror or error})", "check its permissions")
    except UnicodeDecodeError:
        stop(file, None, "file", "it is not UTF-8", "save it as UTF-8")
    except json.JSONDecodeError as error:
        stop(file, error.lineno, "line", f"not JSON at column {error.colno}", f"mend it ({error.msg})")
    except (ValueError, RecursionError) as error:
        stop(file, None, "file", "the JSON cannot be read", f"mend it ({error})")
    if not isinstance(entries, dict) or not entries:
        stop(file, None, "file", "it lists no data sets", 'write {"name": {"file_name": …}}')
    return entries


def _entry(entry: dict[str, Any], name: str, listing: Path) -> Entry:
    file = str(listing)
    formatting = entry.get("formatting", "alpaca")
    if formatting not in ("alpaca", "sharegpt", "openai"):
        stop(file, None, f"{name}.formatting", f"{formatting!r} is no formatting", "write alpaca, sharegpt or openai")
    for key in ("columns", "tags"):
        inner = entry.get(key, {})
        if not isinstance(inner, dict) or not all(isinstance(one, str | None) for one in inner.values()):
            stop(file, None, f"{name}.{key}", "it is no object of texts", 'write {"prompt": "question"}')
    for key in entry:
        if key not in (*PLACES, *PLAIN) and entry[key] is not None:
            fix = "take it out, and set max_rows if you want fewer rows" if key == "num_samples" else "take it out"
            stop(file, None, f"{name}.{key}", "such a setting is not supported", fix)
    kind, columns = _columns(entry, "alpaca" if formatting == "alpaca" else "sharegpt", name, file)
    keys, speakers = _tags(entry, formatting)
    return Entry(_source(entry, name, listing), kind, columns, keys if "conversations" in columns else {}, speakers)


def _source(entry: dict[str, Any], name: str, listing: Path) -> str:
    file = str(listing)
    key = next((one for one in PLACES if entry.get(one) is not None), None)
    # Theirs takes ModelScope only where the Hub is not named as well.
    if key is None or not isinstance(entry[key], str):
        what = "the entry says nowhere where the rows lie" if key is None else f"it is {called(entry[key])}, not a text"
        stop(file, None, f"{name}.{key or 'file_name'}", what, "write file_name or hf_hub_url")
    if key == "script_url":
        fix = "write its rows to a file, or read them with module:function"
        stop(file, None, f"{name}.script_url", "loading scripts are not run", fix)
    if key not in ("hf_hub_url", "file_name"):
        stop(
            file, None, f"{name}.{key}", "only the Hugging Face Hub and files are read", "write file_name or hf_hub_url"
        )
    if key == "hf_hub_url":
        parts = [f"{mark}{entry[name]}" for mark, name in ((":", "subset"), ("@", "revision")) if entry.get(name)]
        return "".join([entry[key], *parts, f"#{entry.get('split') or 'train'}"])
    path = listing.parent / entry[key]
    if not path.exists():
        near = difflib.get_close_matches(entry[key], [one.name for one in listing.parent.iterdir()], n=1)
        fix = f'did you mean "{near[0]}"?' if near else f"put it into {listing.parent}, or write its whole path"
        stop(file, None, f"{name}.file_name", f'there is no "{entry[key]}"', fix)
    return str(path)


def _columns(entry: dict[str, Any], formatting: str, name: str, file: str) -> tuple[str, dict[str, str]]:
    """(our format, its columns)."""
    default = COLUMNS[formatting]
    given = {key: column for key, column in entry.get("columns", default).items() if column is not None}
    known = {*default, *SHARED, "history"} if formatting == "alpaca" else {*default, *SHARED}
    for key in given:
        if key in UNREADABLE:
            stop(
                file,
                None,
                f"{name}.columns.{key}",
                f"{UNREADABLE[key]} cannot be learnt from here",
                "take the entry out",
            )
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            fix = f'did you mean "{near[0]}"?' if near else "use " + ", ".join(sorted(known))
            stop(file, None, f"{name}.columns.{key}", "there is no such column", fix)
    ranking = entry.get("ranking") or False
    if not isinstance(ranking, bool):
        stop(file, None, f"{name}.ranking", f"it is {called(ranking)}, not true or false", "write true or false")
    if formatting == "alpaca" and not ranking and given.keys() == {"prompt"}:
        return "text", {"text": given["prompt"]}
    due = ["prompt"] if formatting == "alpaca" else ["messages"]
    due += ["chosen", "rejected"] if ranking else ["response"] if formatting == "alpaca" else []
    for key in due:
        if key not in given:
            what = "the entry names no such column" + (", but has ranking: true" if ranking else "")
            stop(file, None, f"{name}.columns.{key}", what, f'write "{key}": "…" with the name in the rows')
    columns = {default.get(key, key): column for key, column in given.items()}
    return f"{formatting}_preference" if ranking else formatting, columns


def _tags(entry: dict[str, Any], formatting: str) -> tuple[dict[str, str], dict[str, str]]:
    """(their keys of a message to ShareGPT's, their speakers to ShareGPT's), without what is the same in both."""
    tags = dict(TAGS)
    if formatting == "openai":
        tags |= {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    tags |= {key: value for key, value in entry.get("tags", {}).items() if value is not None}
    keys = {tags["role_tag"]: "from", tags["content_tag"]: "value"}
    # These two are known as they are, and mistakes in them are told in the words of the rows.
    if tuple(keys) in (("role", "content"), ("from", "value")):
        keys = {name: name for name in keys}
    speakers = {
        tags[key]: ours for key, ours in TAGS.items() if key not in ("role_tag", "content_tag") and tags[key] != ours
    }
    return keys, speakers
