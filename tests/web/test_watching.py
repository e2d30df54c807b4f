"""Does the room that watches answer with what lies there, and with nothing else? Addresses, events, and pages that are sealed off."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient
from watched import attempt, compared, row, stage, text

from pipeline.artifacts.run import Run
from pipeline.web import serve, watching
from pipeline.web.app import make_app
from pipeline.web.asking import State
from pipeline.web.news import MOST, News, sent

HOST = "127.0.0.1:8377"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with run demo, which is compared."""
    folder = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = Run("demo")
        stage(run, "data", {"samples.md": "# <b>samples</b>"}, metrics={"rankings_train": 12.0})
        for name in ("sft", "reward", "ppo"):
            stage(run, name, {"metrics.jsonl": text([row(1)]), "secret.txt": "no page"})
        compared(run)
    return folder


@pytest.fixture
def client(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.chdir(made)
    state = State(Run("demo"), token="t0ken-that-is-long")
    with TestClient(make_app(state, [HOST]), base_url=f"http://{HOST}") as asking:
        asking.get(f"/?token={state.token}")
        yield asking


def test_the_first_page_is_this_room(client: TestClient) -> None:
    answer = client.get("/", follow_redirects=True)
    assert answer.url.path == "/runs" and answer.status_code == 200
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert " onclick" not in answer.text and "<style" not in answer.text and " style=" not in answer.text
    for address in ("/static/runs.js", "/static/runs.css", "/static/plot.js"):
        assert client.get(address).status_code == 200
        assert "innerHTML" not in client.get(address).text and "outerHTML" not in client.get(address).text


def test_all_runs_as_json(client: TestClient) -> None:
    found = client.get("/api/runs").json()
    (run,) = found["runs"]
    assert run["name"] == "demo" and run["about"]["rankings_train"] == 12.0 and run["about"]["model"] == "tiny"
    assert [(one["folder"], one["gate"]) for one in run["stages"]][-1] == ("compare", "warn")
    assert run["answers"][0]["word"] == "Yes"
    eos = {"name": "EOS", "label": "EOS", "words": "completions that end by themselves", "share": True}
    assert eos in found["figures"]


def test_a_page_of_a_stage_runs_its_script_and_reaches_nothing(client: TestClient) -> None:
    answer = client.get("/runs/demo/files/compare/report.html")
    policy = answer.headers["content-security-policy"]
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    assert policy.startswith("sandbox allow-scripts") and "allow-same-origin" not in policy
    assert "default-src 'none'" in policy and "connect-src" not in policy and "form-action 'none'" in policy
    markdown = client.get("/runs/demo/files/data/samples.md")
    assert markdown.headers["content-type"] == "text/plain; charset=utf-8" and "<b>" in markdown.text
    assert markdown.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "demo/files/compare/report.json",  # there, and no page that is shown
        "demo/files/ppo/secret.txt",
        "demo/files/ppo/model.safetensors",
        "demo/files/compare/manifest.json",
        "demo/files/compare/..%2f..%2fdata%2fsamples.md",
        "demo/files/..%2fdemo%2fcompare/report.html",
        "demo/files/data%00/samples.md",
        "..%2fruns%2fdemo/files/compare/report.html",
        "%2e%2e/files/compare/report.html",
        "demo/files/%2e/samples.md",
        "nowhere/files/compare/report.html",
        "demo/files/compare/report.html/x",
        "demo/files/ppo.partial/samples.md",
    ],
)
def test_ids_never_become_paths(client: TestClient, path: str) -> None:
    answer = client.get(f"/runs/{path}")
    assert answer.status_code == 404 and set(answer.json()) == {"error"} and "/" not in answer.json()["error"]


def test_a_link_in_the_place_of_a_page_is_none(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.html").write_text("another's")
    page = Path("runs/demo/compare/report.html")
    page.rename(page.with_name("report.aside"))
    page.symlink_to(tmp_path / "elsewhere.html")
    assert client.get("/runs/demo/files/compare/report.html").status_code == 404
    page.with_name("report.aside").replace(page)


@pytest.mark.parametrize("of", ["demo", "", *[None]])
def test_what_is_no_curve_is_refused(client: TestClient, of: str | None) -> None:
    wanted = [of] if of is not None else ["demo/ppo"] * (MOST + 1)
    answer = client.get("/api/runs/live", params={"of": wanted})
    assert answer.status_code == 400 and "RUN/STAGE" in answer.json()["error"]


def test_no_more_pages_listen_than_the_server_can_serve(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LISTENERS", 0)
    assert client.get("/api/runs/live").status_code == 503


def events(news: News, count: int, between: Any = lambda: None) -> list[tuple[str, Any]]:
    """The first events of a page that listens; `between` is done after those of the first look. Then it goes away."""

    async def listened() -> list[str]:
        listening, ending, found = watching._Listening(), threading.Event(), list[str]()
        async for part in (stream := watching._events(news, listening, ending)):
            found.append(part)
            assert listening.pages == 1
            if len(found) == 6:
                between()
            if len(found) > count:
                break
        await stream.aclose()  # type: ignore[attr-defined]
        assert listening.pages == 0, "a page that is gone counts no more"
        return found

    first, *rest = asyncio.run(listened())
    assert first.startswith("retry:") and all(part.endswith("\n\n") for part in rest)
    split = [part.split("\n") for part in rest]
    return [(lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))) for lines in split]


def test_events_come_as_a_log_grows(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "EVERY", 0.01)
    monkeypatch.setattr(watching.runs_now, "at_work", lambda partial: "somebody")
    from pipeline.settings.config import Config

    log = attempt(Run("demo"), "ppo", Config(seed=3)) / "metrics.jsonl"  # of an attempt that nobody else here looks at
    log.write_text(text([row(1)]))

    def grow() -> None:
        with log.open("a") as file:
            file.write(text([row(2)]))

    found = events(News(Path("runs"), [("demo", "ppo")]), 6, grow)
    assert [name for name, _ in found] == ["runs", "points", "limits", "samples", "progress", "points"]
    assert [point["step"] for point in found[1][1]["points"]] == [1] and found[5][1]["points"][0]["step"] == 2


def test_a_stream_ends_with_the_server(client: TestClient) -> None:
    """It would keep it for as long as a page is open, and then be torn off with a traceback."""
    ending = threading.Event()

    async def listened() -> list[str]:
        return [
            ending.set() or part async for part in watching._events(News(Path("runs")), watching._Listening(), ending)
        ]

    assert len(asyncio.run(listened())) == 1
    ending.clear()
    server = uvicorn.Server(uvicorn.Config("nothing:app"))
    serve._end_streams_first(server, ending)
    server.handle_exit(2, None)
    assert ending.is_set() and server.should_exit


def test_an_event_is_one_line_whatever_a_text_holds() -> None:
    assert sent("samples", {"text": "a\n\ndata: evil\r\n"}).count("\n") == 3
