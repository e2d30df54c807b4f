"""Who may ask, and what? A token, then a cookie; this machine's own names; one origin; small bodies, few at a time; and what the browser may do.

The page shows people's data and starts models, and every web site that is open beside it in the same browser can send it requests. So
nothing is answered without the cookie, which no other site's request carries (SameSite=Strict) and no script reads (HttpOnly); a name that another
site's DNS points here (DNS rebinding) is not one of `hosts`; and a form of another site cannot send JSON.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST = 256 * 1024  # bytes of a body
LONGEST = 2048  # bytes of an address
RATE, BURST = 20.0, 80.0  # requests a second in the long run, and at once
METHODS = ("GET", "HEAD", "POST")
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
"""What the browser is told with every answer, unless the answer says otherwise itself."""


CLOSED = "Open the address that the terminal printed; it holds the token."
ELSEWHERE = f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>To the page</title><main><p>Is it open in this browser already? <a href="/runs">On to the page</a>.</p><p>{CLOSED}</p></main></html>
"""


class Guard:
    """ASGI middleware around the whole application. `hosts` are the values of Host that are ours, such as 127.0.0.1:8377."""

    def __init__(self, app: ASGIApp, token: str, hosts: Iterable[str], clock: Callable[[], float] = time.monotonic):
        self.app, self.token = app, token
        # browsers keep cookies by host, whatever the port: two pages of one machine have cookies of two names
        self.cookie = f"pipeline_{hashlib.sha256(token.encode()).hexdigest()[:12]}"
        self.hosts = frozenset(host.lower() for host in hosts)
        self.clock, self.left, self.at = clock, BURST, clock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":  # a WebSocket: there is none here
            await send({"type": "websocket.close", "code": 1008})
        else:
            sending = _with_headers(send)
            answer = self._refusal(scope)
            if answer is not None:
                await answer(scope, receive, sending)
                return
            await self._within_size(scope, receive, sending)

    def _refusal(self, scope: Scope) -> Response | None:
        """What is answered in place of what was asked; None where it may be asked."""
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if len(headers.getlist("host")) != 1 or host not in self.hosts:
            return _said(421, "This address is not one of this page's; open the one that the terminal printed.")
        if scope["method"] not in METHODS:
            return _said(405, "That cannot be asked here.", {"Allow": ", ".join(METHODS)})
        if not _own_origin(headers, host, scope["method"]):
            return _said(403, "Another site's page has asked; only this page may.")
        if len(scope["path"]) + len(scope["query_string"]) > LONGEST:
            return _said(414, "The address is too long.")
        if not self._in_time():
            return _said(429, "That was too much at once; wait a second.", {"Retry-After": "1"})
        given = [value for name, value in parse_qsl(scope["query_string"].decode("latin-1")) if name == "token"]
        if scope["method"] == "GET" and len(given) == 1 and self._is_token(given[0]):
            return self._with_cookie(scope)
        if not any(self._is_token(value) for value in _cookies(headers, self.cookie)):
            return _without_cookie(headers)
        if scope["method"] == "POST":
            return _wrong_body(headers)
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self.token.encode())

    def _in_time(self) -> bool:
        """Whether a request is within the rate: a bucket that fills by RATE a second, up to BURST."""
        now = self.clock()
        self.left, self.at = min(BURST, self.left + RATE * (now - self.at)), now
        if self.left < 1:
            return False
        self.left -= 1
        return True

    def _with_cookie(self, scope: Scope) -> Response:
        """To the same address without the token, which thus stays in no history, with a cookie in its place."""
        kept = [one for one in parse_qsl(scope["query_string"].decode("latin-1")) if one[0] != "token"]
        path = "/" + scope["path"].lstrip("/\\")  # //host would lead to another one
        if "\\" in path or not path.isprintable():
            path = "/"
        there = path.encode("utf-8", "replace").decode("latin-1") + (f"?{urlencode(kept)}" if kept else "")
        answer = Response(status_code=303, headers={"Location": there if there.isascii() else "/"})
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
        return answer

    async def _within_size(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask the application; a body that said no length, or lied, is read no further than LARGEST."""
        got = 0

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b"")) if message["type"] == "http.request" else 0
            if got > LARGEST:
                raise HTTPException(413)
            return message

        await self.app(scope, counted, send)


TOO_LARGE = f"The body has more than {LARGEST // 1024} kB."


def _said(status: int, sentence: str, headers: MutableMapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": sentence}, status, headers)


def _own_origin(headers: Headers, host: str, method: str) -> bool:
    """Whether this page asks, or a person who types an address or follows a link to it; a browser says so by itself."""
    origins, sites = headers.getlist("origin"), headers.getlist("sec-fetch-site")
    if origins and origins != [f"http://{host}"]:
        return False
    if method == "POST" and not origins:  # browsers send it with every POST
        return False
    if not sites or sites in (["same-origin"], ["none"]):
        return True
    return (
        method == "GET" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    )


def _without_cookie(headers: Headers) -> Response:
    """What is answered without the cookie. A browser sends none where a page of another site, or one that a stage made and that is sealed off,
    leads here; from what is answered to that it goes on by a link of ours."""
    if headers.get("sec-fetch-dest") == "document":
        return HTMLResponse(ELSEWHERE, 403)
    return PlainTextResponse(f"{CLOSED}\n", 403)


def _cookies(headers: Headers, name: str) -> list[str]:
    try:
        found = SimpleCookie("; ".join(headers.getlist("cookie")))
    except CookieError:
        return []
    return [found[name].value] if name in found else []


def _wrong_body(headers: Headers) -> Response | None:
    kind, _, more = headers.get("content-type", "").lower().partition(";")
    if kind.strip() != "application/json" or more.replace(" ", "") not in ("", "charset=utf-8"):
        return _said(415, "A body is JSON here: Content-Type: application/json.")
    length = headers.get("content-length")
    if length is not None and (not length.isdecimal() or int(length[:12]) > LARGEST):
        return _said(413, TOO_LARGE)
    return None


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
