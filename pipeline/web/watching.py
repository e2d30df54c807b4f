"""How does a person watch runs in a browser? /runs: what was done and whether it worked, curves as they grow, samples, and the pages.

    GET /runs                                the page
    GET /api/runs                            all runs as JSON, and what the figures are
    GET /api/runs/live?of=RUN/STAGE&of=…     server-sent events: runs, progress, points, limits, samples
    GET /runs/RUN/files/STAGE/NAME           a page that a stage made, which can reach nothing of ours

Every name that is asked for is looked up among those that are there, and no path is made of it.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pipeline.web import runs_now
from pipeline.web.asking import Refused, State, page
from pipeline.web.news import MOST, News, figures, sent

EVERY = 1.0  # seconds between two looks at the files
ALIVE = 15  # looks without news after which a line is sent all the same, so that a connection that is gone is noticed
LISTENERS = 24  # pages that may listen at once
SEALED = (
    "sandbox allow-scripts allow-downloads allow-popups; default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""For the pages that stages made: they run their own script, in an origin of their own, without our cookie, and ask nobody for anything."""
KINDS = {".html": "text/html", ".md": "text/plain", ".jsonl": "text/plain"}


@dataclass
class _Listening:
    pages: int = 0


def routes(state: State) -> list[Route]:
    """The addresses of this room."""
    listening = _Listening()

    async def room(request: Request) -> Response:
        return page("runs.html.j2", "runs", state)

    async def runs(request: Request) -> Response:
        found = await run_in_threadpool(_shown, state.root)
        return JSONResponse({"runs": found, "figures": figures()})

    async def live(request: Request) -> Response:
        of = [tuple(one.split("/", 1)) for one in request.query_params.getlist("of")]
        if len(of) > MOST or any(len(one) != 2 for one in of):
            raise Refused(400, f"of: RUN/STAGE, at most {MOST} of them.")
        if listening.pages >= LISTENERS:
            raise Refused(503, "Too many pages listen; close one of them.")
        news = News(state.root, [(one[0], one[1]) for one in of])
        return StreamingResponse(_events(news, listening, state.ending), media_type="text/event-stream")

    async def file(request: Request) -> Response:
        found = await run_in_threadpool(_page_of, state.root, **request.path_params)
        if found is None:
            raise Refused(404, "There is no such page.")
        kind = KINDS.get(found.suffix, "text/plain")
        return FileResponse(found, media_type=f"{kind}; charset=utf-8", headers={"Content-Security-Policy": SEALED})

    return [
        Route("/runs", room),
        Route("/api/runs", runs),
        Route("/api/runs/live", live),
        Route("/runs/{run}/files/{folder}/{name}", file),
    ]


async def _events(news: News, listening: _Listening, ending: threading.Event) -> AsyncIterator[str]:
    listening.pages += 1
    try:
        yield "retry: 2000\n\n"
        quiet = 0
        while not ending.is_set():
            events = await run_in_threadpool(news.look)
            for event, value in events:
                yield sent(event, value)
            quiet = 0 if events else quiet + 1
            if quiet >= ALIVE:
                quiet = 0
                yield ": still here\n\n"
            await asyncio.sleep(EVERY)
    finally:
        listening.pages -= 1


def _shown(root: Path) -> list[dict[str, object]]:
    return [runs_now.shown(run, runs_now.stages(run)) for run in runs_now.runs(root)]


def _page_of(root: Path, run: str, folder: str, name: str) -> Path | None:
    """The file of a page that a stage of a run made, if it is one of those that are shown, and no link to elsewhere."""
    found = runs_now.run_named(run, root)
    if found is None:
        return None
    for stage in runs_now.stages(found):
        for known in stage.pages:
            if (stage.folder, known) == (folder, name):
                path = root / found.name / stage.folder / known
                return path if path.is_file() and not path.is_symlink() else None
    return None
