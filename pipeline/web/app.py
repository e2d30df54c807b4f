"""Which addresses are there? Those of all rooms, behind one guard; what goes wrong is told in a sentence, and in full in the log alone."""

import logging
from collections.abc import Iterable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.artifacts.errors import ArtifactError
from pipeline.language import fixed, in_language, language_now, phrase, recognised, spoken
from pipeline.people.store import StoreError
from pipeline.web import arena, chat, ranking, watching
from pipeline.web.asking import Refused, State
from pipeline.web.generating import Desk
from pipeline.web.guard import TOO_LARGE, Guard

log = logging.getLogger("pipeline.web")
STATIC = Path(__file__).parent / "static"
SENTENCES = {404: fixed("There is no such address."), 413: TOO_LARGE}


def make_app(state: State, hosts: Iterable[str]) -> ASGIApp:
    """The whole application for requests to `hosts`, the values of Host that are its own."""
    desk = Desk(state)
    routes = [
        Route("/", _first),
        *ranking.routes(state),
        *arena.routes(state, desk),
        *chat.routes(state, desk),
        *watching.routes(state),
        Mount("/static", _Static(directory=STATIC)),
    ]
    handlers = {
        Refused: _refused,
        StoreError: _not_stored,
        HTTPException: _http,
        ArtifactError: _mistake,
        Exception: _fault,
    }
    inner = Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]

    async def speaking(scope: Scope, receive: Receive, send: Send) -> None:
        with spoken(state.language):
            await inner(scope, receive, send)

    return Guard(speaking, state.token, hosts)


class _Static(StaticFiles):
    """Our scripts and styles, scripts in the language that is spoken."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        if language_now() == "en" or not path.endswith(".js"):
            return await super().get_response(path, scope)
        found, _ = self.lookup_path(path)
        if not found:
            raise HTTPException(404)
        source = in_language(Path(found).name, Path(found).read_text(encoding="utf-8"))
        return Response(source, media_type="text/javascript")


async def _first(request: Request) -> Response:
    return RedirectResponse("/runs", 303)


async def _refused(request: Request, error: Refused) -> Response:
    return JSONResponse({"error": recognised(error.sentence)}, error.status)


async def _not_stored(request: Request, error: StoreError) -> Response:
    return JSONResponse({"error": phrase("Nothing was stored: {error}", error=recognised(str(error)))}, 400)


async def _http(request: Request, error: HTTPException) -> Response:
    sentence = SENTENCES.get(error.status_code, fixed("That cannot be asked here."))
    return JSONResponse({"error": phrase(sentence)}, error.status_code)


async def _mistake(request: Request, error: ArtifactError) -> Response:
    """What a user can mend is in the log: its sentence has paths, which the page does not show."""
    log.warning("%s %s: %s", request.method, request.url.path, error)
    return JSONResponse({"error": phrase("The run's files do not allow that; the terminal says why.")}, 409)


async def _fault(request: Request, error: Exception) -> Response:
    """Starlette raises it again behind this answer, so that the server logs it."""
    return JSONResponse({"error": phrase("Something went wrong here; the terminal says what.")}, 500)
