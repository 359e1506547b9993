"""`TokenScopeMiddleware`: requests to real FastAPI applications, most of them over HTTP to a real uvicorn on loopback."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy
import pytest

fastapi = pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
websockets = pytest.importorskip("websockets")

from starlette.convertors import CONVERTOR_TYPES, Convertor  # noqa: E402
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: E402
from starlette.middleware.gzip import GZipMiddleware  # noqa: E402
from starlette.requests import HTTPConnection  # noqa: E402
from starlette.responses import JSONResponse, StreamingResponse  # noqa: E402
from starlette.routing import Host, Mount, Route, Router  # noqa: E402
from starlette.staticfiles import StaticFiles  # noqa: E402
from support.dspy_support import assert_billed  # noqa: E402
from support.programs import program, run  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

import tokenscope  # noqa: E402
from tokenscope import Budget, BudgetExceeded, current_scope, record_tokens, token_scope  # noqa: E402
from tokenscope.errors import TokenScopeWarning  # noqa: E402
from tokenscope.integrations.asgi import TokenScopeMiddleware  # noqa: E402
from tokenscope.testing import LoopbackProvider  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

TWO_CALLS = Budget(calls=2)
USERS = ["alice", "bob", "carol", "dave", "erin", "frank", "grace"]


@pytest.fixture(scope="module")
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider:
        yield provider


@contextmanager
def served(app: Any, **options: Any) -> Iterator[Any]:
    """Serve an application, and return an HTTP client of it. In the end, its requests have ended with their background tasks."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, **options))
    sockets = [server.config.bind_socket()]
    sockets[0].listen()  # clients wait until the server accepts them
    thread = threading.Thread(target=server.run, args=(sockets,))
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{sockets[0].getsockname()[1]}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def get(app: Any, path: str, method: str = "GET", **options: Any) -> Any:
    """Answer a request without a server."""

    async def answer() -> Any:
        transport = httpx.ASGITransport(app, **options)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, headers={"x-user": "alice"})

    return asyncio.run(answer())


def names() -> set[str]:
    return {node.name for node in tokenscope.report().tree().children}


def warnings_of(caplog: Any) -> list[str]:
    """Return what was logged that is no mere information, by any logger."""
    return [record.getMessage() for record in caplog.records if record.levelname not in {"DEBUG", "INFO"}]


UVICORNS = "ASGI callable returned without completing handshake."
"""What uvicorn logs of a connection that is answered like an HTTP request, though it has answered."""


def user_of(scope: Any) -> dict[str, Any]:
    return {"user": HTTPConnection(scope).headers.get("x-user")}


class Asking:
    """Asks a model several times, in the ways in which endpoints do."""

    def __init__(self, provider: LoopbackProvider) -> None:
        self.predict = dspy.Predict("question -> answer")
        self.predict.lm = provider.lm()

    def ask(self, number: int, tag: str = "") -> list[str]:
        return list(self.stream(number, tag))

    async def aask(self, number: int, tag: str = "") -> list[str]:
        return [each async for each in self.astream(number, tag)]

    def stream(self, number: int, tag: str = "") -> Iterator[str]:
        for n in range(number):
            yield self.predict(question=f"{n}? <<bill {tag}>>").answer

    async def astream(self, number: int, tag: str = "") -> Any:
        for n in range(number):
            yield (await self.predict.acall(question=f"{n}? <<bill {tag}>>")).answer


def application(provider: LoopbackProvider) -> Any:
    """Return an application in which each endpoint asks a model a number of times, for the user of the request."""
    app, asking = fastapi.FastAPI(), Asking(provider)

    def user(request: fastapi.Request) -> Iterator[str]:
        yield request.headers.get("x-user", "")

    User = fastapi.Depends(user)

    @app.get("/async/{number}")
    async def in_a_coroutine(number: int, user: str = User) -> int:
        return len(await asking.aask(number, user))

    @app.get("/sync/{number}")
    def in_a_thread(number: int, user: str = User) -> int:
        return len(asking.ask(number, user))

    @app.get("/group/{number}")
    async def in_a_task_group(number: int, user: str = User) -> int:
        await asking.aask(number - 1, user)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(asking.aask(1, user))
        return len(task.result())

    @app.get("/swallowing/{number}")
    async def swallowing(number: int, user: str = User) -> str:
        try:
            await asking.aask(number, user)
        except BaseException:
            return "swallowed"
        return "answered"

    @app.get("/inner/{number}")
    async def in_a_budget_of_its_own(number: int, user: str = User) -> int:
        with token_scope("inner", budget=TWO_CALLS):
            return len(await asking.aask(number, user))

    @app.get("/inner/group/{number}")
    async def in_a_budget_in_a_task(number: int) -> int:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(in_a_budget_of_its_own(number, ""))
        return task.result()

    @app.get("/stream/async/{number}")
    async def streaming(number: int, user: str = User) -> Any:
        return StreamingResponse(asking.astream(number, user))

    @app.get("/stream/sync/{number}")
    def streaming_in_threads(number: int, user: str = User) -> Any:
        return StreamingResponse(asking.stream(number, user))

    @app.get("/stream/promised/{number}")
    async def promising_a_length(number: int, user: str = User) -> Any:
        return StreamingResponse(asking.astream(number, user), headers={"content-length": "1000"})

    @app.get("/background/{number}")
    async def in_the_background(number: int, tasks: fastapi.BackgroundTasks, user: str = User) -> int:
        tasks.add_task(asking.ask, number, user)
        return number

    @app.get("/failing/{number}")
    async def failing(number: int, user: str = User) -> None:
        await asking.aask(number, user)
        raise LookupError(number)

    @app.websocket("/talk/{number}")
    async def talking(socket: fastapi.WebSocket, number: int) -> None:
        await socket.accept()
        async for answer in asking.astream(number):
            await socket.send_text(answer)
        await socket.close()

    @app.websocket("/thinking/{number}")
    async def asking_before_accepting(socket: fastapi.WebSocket, number: int) -> None:
        await asking.aask(number)
        await socket.accept()
        await socket.close()

    return app


def added(app: Any, **options: Any) -> Any:
    app.add_middleware(TokenScopeMiddleware, **options)
    return app


def around(app: Any, **options: Any) -> Any:
    return TokenScopeMiddleware(GZipMiddleware(app), **options)


async def passing(request: Any, call_next: Any) -> Any:
    return await call_next(request)


async def answering_errors(request: Any, call_next: Any) -> Any:
    try:
        return await call_next(request)
    except Exception:
        return JSONResponse({"sorry": True}, 500)


def above(dispatch: Any) -> Any:
    """Return a way to add the middleware above a `BaseHTTPMiddleware`."""

    def add(app: Any, **options: Any) -> Any:
        app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
        return added(app, **options)

    return add


# -- names --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def routed(tmp_path):
    """An application with routes of each kind."""
    app = fastapi.FastAPI()
    inner, router, nested = fastapi.FastAPI(), fastapi.APIRouter(prefix="/{team}"), fastapi.APIRouter()
    router.get("/members/{member}")(lambda: "member")
    nested.get("/nested")(lambda: "nested")
    router.include_router(nested, prefix="/deep")
    inner.get("/items/{item:path}")(lambda: "item")
    (tmp_path / "a.txt").write_text("a")
    app.get("/users/{user}")(lambda: "user")
    app.post("/users/me")(lambda: "me")
    app.include_router(router, prefix="/teams")
    app.mount("/inner/{version}", inner)
    app.mount("/files", StaticFiles(directory=tmp_path))
    app.router.routes.append(
        Host("api.example", Router([Mount("/hosted", routes=[Route("/{id:int}", lambda _: None)])]))
    )
    return app


@pytest.mark.parametrize("way", [added, around, above(passing), TokenScopeMiddleware])
@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/users/7", "GET /users/{user}"),
        ("GET", "/users/me", "GET /users/{user}"),
        ("POST", "/users/me", "POST /users/me"),
        ("POST", "/users/7", "POST /users/{user}"),  # not allowed
        ("BREW", "/users/7", "HTTP /users/{user}"),  # no method that is known: a client may invent any
        ("GET", "/teams/red/members/7", "GET /teams/{team}/members/{member}"),
        ("GET", "/teams/red/deep/nested", "GET /teams/{team}/deep/nested"),
        ("GET", "/inner/2/items/a/b/c", "GET /inner/{version}/items/{item}"),
        ("GET", "/inner/2/7", "GET /inner/{version}"),  # not found in there
        ("GET", "/files/a.txt", "GET /files/{path}"),
        ("GET", "http://api.example/hosted/7", "GET /hosted/{id}"),
        ("GET", "/7", "GET"),
        ("GET", "/users/7/", "GET"),  # redirected
    ],
)
def test_names(routed, way, method, path, name):
    """A scope is named by its method and by the template of its route, and by the method alone if there is no such route."""
    with token_scope("test") as scope:
        get(way(routed), path, method, raise_app_exceptions=False)

    assert [name] == [node.name for node in scope.report().find("test").children]


@pytest.mark.filterwarnings("ignore:The `root_path`")
def test_names_below_a_root_path():
    """An application that a proxy shows under another path has the names of its own routes."""
    for way in (added, around):
        app = fastapi.FastAPI(root_path="/api/v1")
        app.get("/users/{user}")(lambda: "user")
        assert 200 == get(way(app), "/api/v1/users/7").status_code

    assert {"GET /users/{user}"} == names()


def test_names_of_other_frameworks(monkeypatch):
    """Routes that are not Starlette's, or that fail, name nothing; the application answers or fails by itself."""

    class Failing(Convertor):
        regex = "[^/]+"

        def convert(self, value: str) -> Any:
            raise LookupError(value)

    class Other:
        routes = ("/users",)

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await JSONResponse("other")(scope, receive, send)

    monkeypatch.setitem(CONVERTOR_TYPES, "failing", Failing())
    app = fastapi.FastAPI()
    app.router.routes.append(Route("/{user:failing}", lambda _: None))
    assert "other" == get(TokenScopeMiddleware(Other()), "/users").json()
    with pytest.raises(LookupError, match="7"):
        get(added(app), "/7")

    assert {"GET"} == names()


# -- attributes ---------------------------------------------------------------------------------------------------------


async def async_user_of(scope: Any) -> dict[str, Any]:
    return user_of(scope)


@pytest.mark.parametrize("attributes", [user_of, async_user_of])
def test_attributes(attributes):
    """The scope of a request has the attributes that the function returns, which may be async."""
    app = fastapi.FastAPI()
    app.get("/")(lambda: dict(current_scope().attributes))

    assert {"user": "alice"} == get(added(app, attributes=attributes), "/").json()


def test_attributes_of_any_name():
    """An attribute may have the name of a parameter of `token_scope`."""
    app, attributes = fastapi.FastAPI(), {"name": "alice", "budget": 7, "self": 8}
    app.get("/")(lambda: dict(current_scope().attributes))

    assert attributes == get(added(app, attributes=lambda _: attributes), "/").json()


def test_no_attributes():
    """Without a function there are no attributes."""
    app = fastapi.FastAPI()
    app.get("/")(lambda: dict(current_scope().attributes))

    assert {} == get(added(app), "/").json()


def test_wrong_arguments():
    """An error says what to write instead, and a function that returns no dict fails its requests."""
    with pytest.raises(
        TypeError, match=r"must be a function .* not dict \{'user': 1\}; write attributes=lambda scope: \{"
    ):
        TokenScopeMiddleware(fastapi.FastAPI(), attributes={"user": 1})
    with pytest.raises(TypeError, match=r"the budget of TokenScopeMiddleware must be a Budget, not int 5"):
        TokenScopeMiddleware(fastapi.FastAPI(), budget=5)
    with pytest.raises(TypeError, match=r"must return a dict, such as \{'user': 'alice'\}, not NoneType None"):
        get(TokenScopeMiddleware(fastapi.FastAPI(), attributes=lambda _: None), "/")


# -- budgets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [added, around, above(passing), above(answering_errors)])
@pytest.mark.parametrize("on_exceed", ["raise", "stop"])
def test_a_spent_budget(provider, caplog, way, on_exceed):
    """A request may spend its budget, and not more. Then the client gets a 429 that says so, and the log one line."""
    app = way(application(provider), budget=Budget(calls=2, cost=3, tokens=100_000, on_exceed=on_exceed))
    with served(app) as client:
        for kind in ("async", "sync", "group", "swallowing"):
            within, over = client.get(f"/{kind}/2"), client.get(f"/{kind}/3")

            assert [200, 429] == [within.status_code, over.status_code]
            assert "application/json" == over.headers["content-type"]
            name = f"GET /{kind}/{{number}}"
            usage = tokenscope.report().find(name).usage
            assert 4 == usage.calls
            assert {
                "detail": f"the budget of '{name}', 2 calls, is spent: 2 calls",
                "scope": name,
                "limit": {"calls": 2, "cost": 3.0, "tokens": 100_000},
                "spent": {"calls": 2, "cost": float(usage.cost) / 2, "tokens": usage.total_tokens // 2},
            } == over.json()
            assert [f"answered with status 429: {over.json()['detail']}"] == warnings_of(caplog)
            caplog.clear()


@pytest.mark.parametrize("way", [added, TokenScopeMiddleware, above(passing)])
def test_a_budget_inside_of_a_request(provider, caplog, way):
    """A `BudgetExceeded` of a scope in an endpoint is answered with a 429, too, unless the program handles it."""
    with served(way(application(provider))) as client:
        answers = [client.get("/inner/3"), client.get("/inner/group/3")]

    for over in answers:
        assert (429, "inner", {"calls": 2}) == (over.status_code, over.json()["scope"], over.json()["limit"])
    assert 2 * ["answered with status 429: the budget of 'inner', 2 calls, is spent: 2 calls"] == warnings_of(caplog)


async def limiting(request: Any, call_next: Any) -> Any:
    with token_scope("limited", budget=TWO_CALLS):
        return await call_next(request)


@pytest.mark.parametrize("kind", ["async", "sync", "group", "stream/async"])
def test_a_budget_in_a_middleware(provider, caplog, kind):
    """A scope with a budget in a `BaseHTTPMiddleware` ends the request in the same way."""
    with served(above(limiting)(application(provider))) as client:
        over = client.get(f"/{kind}/3")

    (told,) = warnings_of(caplog)
    assert told.endswith(": the budget of 'limited', 2 calls, is spent: 2 calls")
    assert 2 == tokenscope.report().find(f"GET /{kind}/{{number}}/limited").usage.calls
    if kind == "stream/async":
        assert (200, 2 * "a answer of some length") == (over.status_code, over.text)
    else:
        assert (429, "limited") == (over.status_code, over.json()["scope"])


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("way", [added, TokenScopeMiddleware])
def test_a_budget_that_the_program_handles(provider, caplog, way, status):
    """The answer of an exception handler stays as it is."""
    app = application(provider)
    app.exception_handler(BudgetExceeded)(lambda _, error: JSONResponse(error.scope, status))
    with served(way(app)) as client:
        over = client.get("/inner/3")

    assert (status, "inner") == (over.status_code, over.json())
    assert [] == warnings_of(caplog)


@pytest.mark.parametrize("way", [added, TokenScopeMiddleware, above(passing)])
def test_a_budget_that_is_spent_while_a_response_streams(provider, caplog, way):
    """The response ends after what was streamed, and the log has one line."""
    with served(way(application(provider), budget=TWO_CALLS)) as client:
        answers = [client.get("/stream/async/9"), client.get("/stream/sync/9")]

    assert 2 * [(200, 2 * "a answer of some length")] == [(over.status_code, over.text) for over in answers]
    names = "GET /stream/async/{number}", "GET /stream/sync/{number}"
    assert [2, 2] == [tokenscope.report().find(name).usage.calls for name in names]
    told = "ended after the response had begun: the budget of '{}', 2 calls, is spent: 2 calls".format
    assert list(map(told, names)) == warnings_of(caplog)


def test_a_response_that_promised_more(provider, caplog):
    """If the response has promised a length, the server ends the connection, so that the client knows."""
    with served(added(application(provider), budget=TWO_CALLS), http="h11") as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/stream/promised/9")

    told, servers = warnings_of(caplog)
    assert told.startswith("ended after the response had begun: the budget of 'GET /stream/promised/{number}'")
    assert "ASGI callable returned without completing response." == servers


def test_a_budget_that_is_spent_in_the_background(provider, caplog):
    """A background task is part of its request; the response is complete by then."""
    with served(added(application(provider), budget=TWO_CALLS)) as client:
        answer = client.get("/background/9")

    assert (200, 9) == (answer.status_code, answer.json())
    assert 2 == tokenscope.report().find("GET /background/{number}").usage.calls
    assert 1 == len(warnings_of(caplog))


def test_a_budget_that_only_warns(provider, caplog):
    """With `on_exceed="warn"` the request goes on."""
    app = added(application(provider), budget=Budget(calls=2, on_exceed="warn"))
    with pytest.warns(TokenScopeWarning, match="on_exceed='warn' lets the run go on"):
        answer = get(app, "/async/3")

    assert (200, 3) == (answer.status_code, answer.json())
    assert [] == warnings_of(caplog)


def test_the_budget_of_a_scope_around(provider, caplog):
    """A budget around the application ends what it is around: no middleware in between answers in its place."""
    app = added(application(provider), budget=Budget(calls=50))
    with pytest.raises(BudgetExceeded, match="the budget of 'test', 3 calls, is spent"):
        with token_scope("test", budget=Budget(calls=3)):
            get(app, "/async/2")
            get(app, "/async/2")
    assert [] == warnings_of(caplog)


SERVER = """
import threading
import httpx, uvicorn
from tokenscope import record_tokens, token_scope
from tokenscope.integrations.asgi import TokenScopeMiddleware

async def app(scope, receive, send):
    assert scope["type"] == "http"
    for _ in range(2):
        with token_scope("step"):
            record_tokens("m", "o", "x", "p", 100, 0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})

server = uvicorn.Server(uvicorn.Config(TokenScopeMiddleware(app), port=0, lifespan="off", log_level="warning"))
sockets = [server.config.bind_socket()]
sockets[0].listen()
thread = threading.Thread(target=server.run, args=(sockets,))
thread.start()
url = "http://127.0.0.1:%d" % sockets[0].getsockname()[1]
print([httpx.get(url).status_code for _ in range(3)])
server.should_exit = True
thread.join()
"""


def test_the_budget_of_the_program(tmp_path):
    """If the budget of `tokenscope run` is spent, requests get a 429, and the program's status is 1."""
    done = run("--max-tokens", "250", program(tmp_path, SERVER))

    assert (1, b"[200, 429, 429]\n") == (done.status, done.stdout)
    told = "answered with status 429: the budget of 'the program', 250 tokens, is spent: 300 tokens, 50 tokens more than that"
    assert [told, told] == [line for line in done.stderr.splitlines() if line]


# -- WebSockets, lifespan, errors, clients that go ----------------------------------------------------------------------


def address(client: Any, path: str) -> str:
    return f"ws{str(client.base_url)[4:]}{path}"


def test_a_websocket(provider, caplog):
    """A connection has a scope, named by its route."""
    with (
        served(added(application(provider), budget=TWO_CALLS)) as client,
        connect(address(client, "/talk/2")) as socket,
    ):
        assert 2 == len(list(socket))

    assert 2 == tokenscope.report().find("WEBSOCKET /talk/{number}").usage.calls
    assert [] == warnings_of(caplog)


def test_a_websocket_that_spends_its_budget(provider, caplog):
    """An open connection is closed, as one that breaks a policy; one that is not accepted yet gets a 429."""
    with served(added(application(provider), budget=TWO_CALLS)) as client:
        with connect(address(client, "/talk/9")) as socket:
            assert 2 * ["a answer of some length"] == [socket.recv(), socket.recv()]
            with pytest.raises(websockets.ConnectionClosedError):
                socket.recv()
        assert (1008, "a budget is spent") == (socket.close_code, socket.close_reason)
        with pytest.raises(websockets.InvalidStatus) as refused:
            connect(address(client, "/thinking/9"))
    assert 429 == refused.value.response.status_code
    assert b'"limit": {"calls": 2}' in refused.value.response.body
    budget = "the budget of 'WEBSOCKET /{}/{{number}}', 2 calls, is spent: 2 calls".format
    told = f"ended after the response had begun: {budget('talk')}", f"answered with status 429: {budget('thinking')}"
    assert [*told] == [each for each in warnings_of(caplog) if each != UVICORNS]


@pytest.mark.parametrize("extensions", [{}, {"extensions": None}, {"extensions": {"tls": {}}}])
def test_servers_that_can_only_close_websockets(provider, caplog, extensions):
    """A connection that is not accepted yet is closed, if the server has no other way to refuse it."""
    sent = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "websocket", "path": "/thinking/3", "query_string": b"", "headers": [], **extensions}
    asyncio.run(TokenScopeMiddleware(application(provider), budget=TWO_CALLS)(scope, None, send))

    assert ["websocket.close"] == sent
    told = "refused the connection: the budget of 'WEBSOCKET /thinking/{number}', 2 calls, is spent: 2 calls"
    assert [told] == warnings_of(caplog)


def test_a_client_that_has_gone_when_its_response_is_to_end(caplog):
    """It is no error that the end of the response reaches nobody."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        with token_scope("inner", budget=Budget(tokens=0)), token_scope("step"):
            record_tokens("m", "o", "x", "p", 1, 0)
            with token_scope("next"):
                pass

    sent = []

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            raise ConnectionResetError

    asyncio.run(TokenScopeMiddleware(app)({"type": "http", "method": "GET", "path": "/"}, None, send))

    assert ["http.response.start", "http.response.body"] == sent
    assert 1 == len(warnings_of(caplog))


@pytest.mark.parametrize("way", [added, TokenScopeMiddleware])
def test_lifespan(way):
    """Start and end of the application are in no request's scope."""
    seen = []

    @asynccontextmanager
    async def lifespan(_: Any) -> Any:
        seen.append(current_scope())
        yield {"started": True}
        seen.append(current_scope())

    app = fastapi.FastAPI(lifespan=lifespan)
    app.router.routes.append(Route("/state", lambda request: JSONResponse(request.state.started)))
    with served(way(app)) as client:
        assert client.get("/state").json() is True

    assert [None, None] == seen


def test_an_error_of_the_program(provider, caplog):
    """An exception goes its way, and what was spent before it is counted."""
    with served(added(application(provider), budget=TWO_CALLS)) as client:
        answer = client.get("/failing/1")

    assert 500 == answer.status_code
    (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert LookupError is told.exc_info[0]
    assert 1 == tokenscope.report().find("GET /failing/{number}").usage.calls


def test_a_client_that_goes(provider, caplog):
    """If a client hangs up, its request ends as without the middleware; what it has spent is counted."""
    app, asking, ended = fastapi.FastAPI(), Asking(provider), threading.Event()

    async def endless() -> Any:
        try:
            yield (await asking.aask(1))[0]
            await asyncio.Event().wait()
        finally:
            ended.set()

    app.get("/")(lambda: StreamingResponse(endless()))
    with served(added(app, budget=TWO_CALLS)) as client:
        with client.stream("GET", "/") as response:
            assert "a answer of some length" == next(response.iter_text())
        assert ended.wait(60)

    assert 1 == tokenscope.report().find("GET /").usage.calls
    assert [] == warnings_of(caplog)


# -- many clients -------------------------------------------------------------------------------------------------------


async def ask_everything(url: str, users: list[str]) -> list[tuple[str, int]]:
    """Let a client of each user ask in every way, all at the same time."""
    paths = [
        "/async/2",
        "/sync/2",
        "/group/2",
        "/stream/async/3",
        "/stream/sync/2",
        "/background/2",
        "/failing/1",
        "/async/9",
    ]

    async def ask(user: str) -> list[tuple[str, int]]:
        async with httpx.AsyncClient(base_url=url, timeout=150, verify=False, headers={"x-user": user}) as client:
            answers = await asyncio.gather(*map(client.get, paths))
        return [(path, answer.status_code) for path, answer in zip(paths, answers, strict=True)]

    return [each for answers in await asyncio.gather(*map(ask, users)) for each in answers]


@pytest.mark.slow
def test_a_hundred_clients(caplog):
    """The tokens by user are the provider's bill by user, for a hundred clients at a time that ask in every way."""
    users = [USERS[n % len(USERS)] for n in range(100)]
    with LoopbackProvider() as provider:
        with served(added(application(provider), budget=Budget(calls=4), attributes=user_of)) as client:
            answers = asyncio.run(ask_everything(str(client.base_url), users))

    failing, spent = ("/failing/1", 500), ("/async/9", 429)
    assert 100 == answers.count(failing) == answers.count(spent)
    assert {200} == {status for path, status in answers if path not in {failing[0], spent[0]}}
    report = tokenscope.report()
    assert 100 * (2 + 2 + 2 + 3 + 2 + 2 + 1 + 4) == report.total.calls
    assert_billed(provider, dict(report.by_attribute("user")))
    assert set(USERS) == set(provider.bill)
    told = "answered with status 429: the budget of 'GET /async/{number}', 4 calls, is spent: 4 calls"
    assert 100 * [told] == [
        each for each in warnings_of(caplog) if not each.startswith("Exception in ASGI application")
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_several_worker_processes(tmp_path, monkeypatch):
    """The application of the how-to page, in two processes that write one file: its tokens by user are the bill by user."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "fastapi.md").read_text(encoding="utf-8")
    first, *_ = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (sink,) = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "app.py").write_text(first + sink)

    async def ask_all() -> list[int]:
        transport = httpx.AsyncHTTPTransport(uds="socket", retries=8)  # until the server listens
        async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=150) as client:
            asked = [
                client.get("/ask/trees", params={"question": f"{n}? <<bill {user}>>"}, headers={"x-user": user})
                for user in USERS
                for n in range(4)
            ]
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    monkeypatch.chdir(tmp_path)
    with LoopbackProvider() as provider:
        environment = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": "x", "DSPY_CACHEDIR": str(tmp_path)}
        command = [sys.executable, "-m", "uvicorn", "app:app", "--workers", "2", "--uds", "socket"]
        server = subprocess.Popen(command, env={**os.environ, **environment})
        try:
            assert {200} == set(asyncio.run(ask_all()))
        finally:
            server.terminate()
            server.wait()

    assert_billed(provider, dict(tokenscope.Report.load(tmp_path / "calls.jsonl").by_attribute("user")))
