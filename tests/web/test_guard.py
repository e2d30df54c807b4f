"""Does the page answer only who may ask? Each attack that a site, a script or a neighbour could try, one test."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.web import app as web_app
from pipeline.web import guard
from pipeline.web.asking import State, person_of, read_json

HOST = "127.0.0.1:8377"
HOME = f"http://{HOST}"


async def echo(request: Request) -> Response:
    return JSONResponse({"got": await read_json(request)})


async def name(request: Request) -> Response:
    return JSONResponse({"person": person_of(await read_json(request))})


async def fails(request: Request) -> Response:
    raise RuntimeError("/secret/path/of/a/file")


async def mistaken(request: Request) -> Response:
    raise ArtifactError("/secret/path/of/a/run: it is gone")


@pytest.fixture
def state() -> State:
    return State(Run("demo"), token="t0ken-that-is-long")


@pytest.fixture
def asking(state: State, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    more = [Route("/echo", echo, methods=["POST"]), Route("/name", name, methods=["POST"])]
    more += [Route("/fails", fails), Route("/mistaken", mistaken)]
    plain = Starlette
    monkeypatch.setattr(web_app, "Starlette", lambda routes, **how: plain(routes=[*routes, *more], **how))
    yield TestClient(
        web_app.make_app(state, [HOST]), base_url=HOME, raise_server_exceptions=False, follow_redirects=False
    )


@pytest.fixture
def inside(asking: TestClient, state: State) -> TestClient:
    asking.get(f"/?token={state.token}")
    return asking


def posted(client: TestClient, body: Any = None, path: str = "/echo", **headers: str | None) -> Any:
    given = {"Origin": HOME, "Content-Type": "application/json"} | {n.replace("_", "-"): v for n, v in headers.items()}
    raw = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
    return client.post(path, content=raw, headers={n: v for n, v in given.items() if v is not None})


def test_the_token_is_taken_for_a_cookie_that_no_script_and_no_other_site_has(asking: TestClient, state: State) -> None:
    answer = asking.get(f"/?token={state.token}&x=1")
    assert answer.status_code == 303 and answer.headers["location"] == "/?x=1", "the token stays in no address"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and state.token in cookie
    assert asking.get("/static/base.css").status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/static/base.css", "/echo", "/api/runs", "/?token=", "/?token=wrong", "/?token=é"]
)
def test_without_the_token_nothing_is_answered(asking: TestClient, path: str) -> None:
    answer = asking.get(path)
    assert answer.status_code == 403 and "set-cookie" not in answer.headers


def test_a_wrong_cookie_is_none(asking: TestClient, state: State) -> None:
    for value in ("wrong", state.token[:-1], state.token + "x", "é", '"', ""):
        cookie = f"pipeline_{'0' * 12}={state.token}; {guard.Guard(web_app.make_app(state, []), state.token, []).cookie}={value}"
        assert asking.get("/static/base.css", headers={"Cookie": cookie.encode("utf-8")}).status_code == 403


def test_the_token_given_twice_or_in_a_post_is_none(asking: TestClient, state: State) -> None:
    assert asking.get(f"/?token={state.token}&token={state.token}").status_code == 403
    assert posted(asking, path=f"/echo?token={state.token}").status_code == 403


def test_tokens_are_compared_in_constant_time(
    asking: TestClient, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    compare = guard.hmac.compare_digest
    monkeypatch.setattr(guard.hmac, "compare_digest", lambda a, b: seen.append((a, b)) or compare(a, b))
    asking.get(f"/?token={state.token}")
    asking.get("/")
    assert len(seen) == 2


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:80", "localhost:8377.evil.example", "", "[::1]:8377"]
)
def test_a_name_that_leads_here_from_elsewhere_is_refused(inside: TestClient, host: str) -> None:
    """DNS rebinding: the name is another site's, the address ours, so that the cookie does not help."""
    assert inside.get("/static/base.css", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:8377", "http://127.0.0.1:8378", ""]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_sites_page_is_refused(inside: TestClient, origin: str, method: str) -> None:
    answer = inside.request(
        method, "/echo", headers={"Origin": origin, "Content-Type": "application/json"}, content=b"{}"
    )
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")], "no CORS"


def test_a_post_without_an_origin_is_refused(inside: TestClient) -> None:
    assert posted(inside, Origin=None).status_code == 403
    assert posted(inside).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "made up"])
def test_what_the_browser_calls_another_site_is_refused_but_for_a_link(inside: TestClient, site: str) -> None:
    assert inside.get("/static/base.css", headers={"Sec-Fetch-Site": site}).status_code == 403
    assert posted(inside, Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="document").status_code == 403
    link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    assert inside.get("/static/base.css", headers=link | {"Sec-Fetch-Dest": "iframe"}).status_code == 403
    assert inside.get("/static/base.css", headers=link | {"Sec-Fetch-Dest": "document"}).status_code == 200


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "MADEUP"])
def test_other_methods_and_a_preflight_are_refused(inside: TestClient, method: str) -> None:
    answer = inside.request(method, "/echo", headers={"Access-Control-Request-Method": "POST"})
    assert answer.status_code == 405 and not [one for one in answer.headers if one.startswith("access-control")]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", None,
             "application/json; charset=utf-16", "application/jsonx", "text/plain; application/json"]
)  # fmt: skip
def test_a_body_that_a_form_could_send_is_refused(inside: TestClient, kind: str | None) -> None:
    assert posted(inside, Content_Type=kind).status_code == 415


def test_a_large_body_is_refused_by_its_length_before_it_is_read(inside: TestClient) -> None:
    assert posted(inside, {"a": "x" * guard.LARGEST}).status_code == 413
    assert posted(inside, b"{}", Content_Length="9" * 400).status_code == 413
    assert posted(inside, b"{}", Content_Length="-1").status_code == 413


def test_a_body_without_a_length_is_read_no_further_than_may_be(inside: TestClient) -> None:
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(guard.LARGEST // 1024 + 10):
            sent += 1024
            yield b" " * 1024

    answer = inside.post("/echo", content=parts(), headers={"Origin": HOME, "Content-Type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"1", b"{", b'{"a": NaN}', b'{"a": Infinity}', b"[" * 100_000, b'{"a":' * 20 + b"1" + b"}" * 20,
            b'{"a": "\\ud800"}', b"\xff\xfe{}", b'{"\\udc00": 1}', "{}".encode("utf-16")]
)  # fmt: skip
def test_a_body_that_is_no_plain_object_is_refused(inside: TestClient, raw: bytes) -> None:
    answer = posted(inside, raw)
    assert answer.status_code == 400 and set(answer.json()) == {"error"}


@pytest.mark.parametrize("person", ["", "  ", "x" * 61, "a\nb", "a\u202eb", "a\0", 1, None, ["a"], {"a": 1}])
def test_a_name_that_is_none_is_refused(inside: TestClient, person: Any) -> None:
    assert posted(inside, {"person": person}, "/name").status_code == 400
    assert posted(inside, {"person": " Zoë  李 "}, "/name").json() == {"person": "Zoë 李"}


@pytest.mark.parametrize("typed", ["José", "Jose\u0301", " José\u3000"])
def test_one_person_is_one_however_they_type_their_name(inside: TestClient, typed: str) -> None:
    assert posted(inside, {"person": typed}, "/name").json() == {"person": "José"}
    assert posted(inside, {"person": "علی\u200cرضا"}, "/name").json() == {"person": "علی\u200cرضا"}


def test_too_many_at_once_are_refused_and_after_a_while_answered(state: State) -> None:
    now = [0.0]

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse({})(scope, receive, send)

    guarded = guard.Guard(inner, state.token, [HOST], clock=lambda: now[0])
    client = TestClient(guarded, base_url=HOME, cookies={guarded.cookie: state.token})
    answers = [client.get("/").status_code for _ in range(int(guard.BURST) + 5)]
    assert answers == [200] * int(guard.BURST) + [429] * 5
    now[0] += 1
    assert [client.get("/").status_code for _ in range(21)] == [200] * 20 + [429]


def test_no_other_page_may_hold_this_one_in_a_frame_and_no_script_stands_in_it(inside: TestClient) -> None:
    answer = inside.get("/static/base.css")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'" and answer.headers["x-frame-options"] == "DENY"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_refusals_have_the_same_headers(asking: TestClient) -> None:
    assert set(guard.HEADERS) <= {name.title().replace("Nosniff", "nosniff") for name in asking.get("/").headers}


@pytest.mark.parametrize("path", ["/static/../guard.py", "/static/%2e%2e/guard.py", "/static/..%2fguard.py", "/static//etc/passwd",
                                  "/static/%00", "/static/", "/static/../../../../../../etc/passwd", "/..%5c..%5cguard.py"])  # fmt: skip
def test_no_path_leads_out(inside: TestClient, path: str) -> None:
    answer = inside.get(path)
    assert answer.status_code in (400, 404) and b"import" not in answer.content and b"root:" not in answer.content


def test_an_address_that_is_too_long_is_refused(inside: TestClient) -> None:
    assert inside.get("/" + "a" * guard.LONGEST + "b").status_code == 414


@pytest.mark.parametrize("path, status", [("/fails", 500), ("/mistaken", 409), ("/nothing", 404)])
def test_an_error_has_a_sentence_and_no_path(inside: TestClient, path: str, status: int) -> None:
    answer = inside.get(path)
    assert answer.status_code == status and set(answer.json()) == {"error"}
    assert "secret" not in answer.text and "Traceback" not in answer.text


def test_the_redirect_of_a_token_leads_to_no_other_host(asking: TestClient, state: State) -> None:
    for path in ("//evil.example/", "/\\evil.example", "/%5cevil.example", "/%0d%0aSet-Cookie:%20a=b", "/é"):
        answer = asking.get(f"{HOME}{path}?token={state.token}")
        there = answer.headers["location"]
        assert answer.status_code == 303 and there.startswith("/") and not there.startswith(("//", "/\\"))
        assert len(answer.headers.get_list("set-cookie")) == 1


def test_a_websocket_is_closed(inside: TestClient) -> None:
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect) as closed, inside.websocket_connect("/echo"):
        pass
    assert closed.value.code == 1008
