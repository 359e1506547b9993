"""`TokenScopeMiddleware`: a scope for each request to an ASGI application, such as one of FastAPI or Starlette."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import replace
from inspect import isawaitable
from typing import Any, Final

from tokenscope._scopes.budget import LIMITS, Budget, BudgetExceeded, check_budget
from tokenscope._scopes.enforcement import BudgetAccount, BudgetStop
from tokenscope._scopes.process import STATE
from tokenscope._scopes.token_scope import token_scope

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]
Attributes = Mapping[str, Any]

_logger: Final = logging.getLogger("tokenscope")
_METHODS: Final = {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
_POLICY_VIOLATION: Final = 1008  # the code of a WebSocket that a server closes because of a limit


class TokenScopeMiddleware:
    """A scope for each HTTP request and each WebSocket connection, named by its route: `POST /users/{id}`.

    It is pure ASGI, so it fits every ASGI application, and needs no package. Streaming responses and background tasks are
    part of their request. If no route is known, the name is the method alone; paths never become names.

    If a budget is spent, the client gets status 429 with a JSON body, and the logger `tokenscope` one line. A response that has
    already begun ends there.

    Args:
        app: The application, or the next middleware. `app.add_middleware(TokenScopeMiddleware)` passes it.
        budget: How much each request may spend. `on_exceed="stop"` has the effect of `"raise"` here.
        attributes: A function of the ASGI scope that returns the attributes of the request's scope. It may be async.

    Raises:
        TypeError: the budget is no `Budget`, or `attributes` no function of this kind.

    Example:
        >>> import asyncio
        >>> from tokenscope import record_tokens, report
        >>> from tokenscope.integrations.asgi import TokenScopeMiddleware
        >>> async def app(scope, receive, send):
        ...     record_tokens("rerank", "score", "rerank-3", "cohere", input_tokens=90, output_tokens=0)
        >>> middleware = TokenScopeMiddleware(app, attributes=lambda scope: {"client": scope["client"][0]})
        >>> request = {"type": "http", "method": "GET", "path": "/", "client": ("127.0.0.1", 50000)}
        >>> asyncio.run(middleware(request, None, None))
        >>> report().find("GET").usage.input_tokens
        90
    """

    def __init__(
        self,
        app: ASGIApp,
        budget: Budget | None = None,
        attributes: Callable[[Message], Attributes | Awaitable[Attributes]] | None = None,
    ) -> None:
        if attributes is not None and not callable(attributes):
            kind = type(attributes).__name__
            raise TypeError(
                f"attributes must be a function of the ASGI scope that returns a dict, not {kind} {attributes!r}; "
                f"write attributes=lambda scope: {attributes!r}"
            )
        self.app = app
        self.attributes = attributes
        self.budget = None if budget is None else check_budget("TokenScopeMiddleware", budget)
        if self.budget is not None and self.budget.on_exceed == "stop":
            self.budget = replace(self.budget, on_exceed="raise")  # in either case, the client gets to know

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Run the application in a scope of its own."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        around = token_scope(_name_of(scope, self.app), budget=self.budget)
        around.attributes = await self._attributes_of(scope)  # whatever their names, such as `name`
        response = _Response(scope, send)
        try:
            with around as entered:
                response.account = entered.account
                await self.app(scope, receive, response.send)
        except BaseException as error:
            if (exceeded := _exceeded_in(error)) is None:
                raise
            await response.refuse(exceeded)
        else:
            await response.finish()

    async def _attributes_of(self, scope: Message) -> dict[str, Any]:
        found = {} if self.attributes is None else self.attributes(scope)
        if isawaitable(found):
            found = await found
        if not isinstance(found, Mapping):
            kind = type(found).__name__
            raise TypeError(f"attributes must return a dict, such as {{'user': 'alice'}}, not {kind} {found!r}")
        return dict(found)


class _Response:
    """The response to a request, until it begins: a spent budget may take its place."""

    def __init__(self, request: Message, send: Send) -> None:
        self.request = request
        self.account: BudgetAccount | None = None
        self._send = send
        self._state = "not begun"
        self._held: list[Message] = []

    async def send(self, message: Message) -> None:
        """Send a message on, unless a spent budget is about to end the request: then what the application says is held back.

        It may answer with an error of its own if it swallows a stop; and Starlette does if it sees a `BudgetExceeded`.
        """
        is_stopped = self.account is not None and self.account.stopped
        if self._held or (self._state == "not begun" and (is_stopped or _is_error_page(message))):
            self._held.append(message)
            return
        kind = message["type"].rpartition(".")[2]
        if kind in {"start", "accept"}:  # a response of a promised length can only be broken off, by the server
            self._state = "promised" if b"content-length" in dict(message.get("headers", ())) else "begun"
        elif kind in {"close", "pathsend"} or (kind == "body" and not message.get("more_body")):
            self._state = "complete"
        await self._send(message)

    async def finish(self) -> None:
        """Send what was held back of a request that has ended in good order."""
        for message in self._held:
            await self._send(message)

    async def refuse(self, error: BudgetExceeded) -> None:
        """Answer that a budget is spent, if the response has not begun; end it if it has. Write one line to the log."""
        is_websocket = self.request["type"] == "websocket"
        close = {"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": "a budget is spent"}
        if self._state != "not begun":
            _logger.warning("ended after the response had begun: %s", error)
            if self._state == "begun":
                with suppress(OSError):  # the client may be gone
                    await self._send(close if is_websocket else {"type": "http.response.body", "body": b""})
        elif is_websocket and "websocket.http.response" not in (self.request.get("extensions") or {}):
            _logger.warning("refused the connection: %s", error)
            await self._send(close)
        else:
            _logger.warning("answered with status 429: %s", error)
            kind, body = "websocket.http.response" if is_websocket else "http.response", _body_of(error)
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            await self._send({"type": f"{kind}.start", "status": 429, "headers": headers})
            await self._send({"type": f"{kind}.body", "body": body})


def _exceeded_in(error: BaseException) -> BudgetExceeded | None:
    """Return what says that a budget is spent, if an exception says nothing else.

    That may be a stop that no scope waits for: of a budget of the whole program, or in a group with the `BudgetExceeded` of a
    scope that has ended. A server would log it with its traceback.
    """
    if isinstance(error, BaseExceptionGroup):
        found = [_exceeded_in(each) for each in error.exceptions]
        return None if None in found else found[0]
    if isinstance(error, BudgetStop) and (error.account.scope is STATE.root or error.account.scope.ended is not None):
        return error.account.error()
    return error if isinstance(error, BudgetExceeded) else None


def _is_error_page(message: Message) -> bool:
    """Whether this begins Starlette's answer to a `BudgetExceeded` that nothing else handles."""
    error = sys.exception()
    return message.get("status") == 500 and error is not None and _exceeded_in(error) is not None


def _body_of(error: BudgetExceeded) -> bytes:
    limits = {name: limit for name in LIMITS if (limit := getattr(error.limit, name)) is not None}
    spent = {"tokens": error.spent.total_tokens, "cost": error.spent.cost, "calls": error.spent.calls}
    found = {
        "detail": str(error),
        "scope": error.scope,
        "limit": limits,
        "spent": {name: spent[name] for name in limits},
    }
    return json.dumps(found, default=float).encode()


def _name_of(request: Message, app: object) -> str:
    """Return the method and the template of the route, or the method alone. There are as many names as there are routes."""
    method = request["method"] if request["type"] == "http" else "WEBSOCKET"
    try:
        template = _template_of(request, app)
    except Exception:  # noqa: BLE001 - routes of another framework, or a converter that fails, as it will for the router, too
        template = ""
    return f"{method if method in _METHODS or request['type'] != 'http' else 'HTTP'} {template}".rstrip()


def _template_of(request: Message, app: Any) -> str:
    """Return the template of the route that Starlette's or FastAPI's router will choose. It says so only after it has chosen."""
    while not hasattr(app, "routes") and hasattr(app, "app"):
        app = app.app  # another middleware
    app = app if hasattr(app, "routes") else request["app"]
    root_path = getattr(app, "root_path", "") or request.get("root_path", "")
    return _matching(app.routes, {**request, "root_path": root_path})


def _matching(routes: Iterable[Any], request: Message) -> str:
    partial = ""
    # FastAPI keeps an included router as one route, and has this function to list those in it.
    for route in getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", iter)(routes):
        match, more = route.matches(request)
        if match.value:
            template = getattr(route, "path_format", None) or ""
            if inner := getattr(route, "routes", None):
                template = template.removesuffix("/{path}") + _matching(inner, {**request, **more})
            if match.name == "FULL":
                return template
            partial = partial or template  # of another method
    return partial
