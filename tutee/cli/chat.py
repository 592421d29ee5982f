"""`tutee chat`: talk in the terminal to a running server, and teach it there.

A client of the native routes like the page, so conversations and feedback end up in the same place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import httpx
import typer
from rich.markdown import Markdown
from rich.prompt import Prompt

from tutee.cli.output import err, out, plain, styled
from tutee.cli.place import settings_of
from tutee.errors import InvalidInput, TuteeError, Unavailable

HELP = """/up [why]   /down [why]   thumb for the last answer
/fix TEXT   what the last answer should have been
/two        answer the last question twice, and choose
/again      another answer to the last question
/new        a new conversation        /quit"""


class Terminal:
    """One conversation, drawn line by line."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.conversation: str | None = None
        self.question: str | None = None
        self.answer: str | None = None

    def call(self, method: str, path: str, body: Any = None) -> Any:
        with self.reachable():
            reply = self.http.request(method, f"/v1/tutee{path}", json=body)
        try:
            said = reply.json()
            error = said["error"] if reply.is_error else None
        except (ValueError, TypeError, KeyError):
            message = f"What answers at {self.http.base_url} is not tutee (status {reply.status_code}). Give its --url."
            raise Unavailable(message) from None
        if error is not None:
            raise TuteeError(error["message"], param=error["param"], code=error["code"])
        return said

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Say in words that no server is there, or none any more."""
        try:
            yield
        except httpx.ConnectError:
            message = f"No server answers at {self.http.base_url}. Start one with `tutee serve`, or give its --url."
            raise Unavailable(message) from None
        except httpx.TransportError as error:
            raise Unavailable(f"The connection to {self.http.base_url} failed ({error}).") from None

    def ask(self, text: str) -> None:
        """Send a turn and stream the answer."""
        if self.conversation is None:
            self.conversation = self.call("POST", "/conversations", {})["id"]
        body = {"content": text, "parent_id": self.answer}
        self.question = self.call("POST", f"/conversations/{self.conversation}/messages", body)["id"]
        self.generate()

    def generate(self, compare: bool = False) -> dict[str, Any]:
        """Answer the last question; with `compare`, twice."""
        body = {"parent_id": self.question, "compare": compare}
        shown: dict[str, Any] = self.call("POST", f"/conversations/{self.conversation}/generate", body)
        for letter, message in zip("AB", shown["messages"], strict=False):
            if compare:
                out.rule(letter, align="left")
            for piece in self.pieces(message["id"]):
                out.print(plain(piece), end="")
            out.print()
            self.answer = message["id"]
        return shown

    def pieces(self, message_id: str) -> Iterator[str]:
        """The text of an answer as it is written. Ctrl-C stops the engine, not the conversation."""
        try:
            with self.reachable(), self.http.stream("GET", f"/v1/tutee/messages/{message_id}/stream") as reply:
                for line in reply.iter_lines():
                    event = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                    if event.get("type") == "delta":
                        yield event["text"]
        except KeyboardInterrupt:
            self.call("POST", f"/messages/{message_id}/stop")
            yield " [stopped]"

    def thumb(self, value: int, comment: str) -> None:
        self.need_answer()
        body = {"kind": "thumb", "message_id": self.answer, "value": value, "comment": comment or None}
        self.call("POST", "/feedback", body)
        out.print(styled("[dim]noted[/]"))

    def fix(self, text: str) -> None:
        self.need_answer()
        self.call("POST", "/feedback", {"kind": "edit", "message_id": self.answer, "content": text})
        out.print(styled("[dim]kept beside the original[/]"))

    def two(self) -> None:
        self.need_answer()
        shown = self.generate(compare=True)
        choice = which_is_better()
        self.call(
            "POST", "/feedback", {"kind": "compare", "presentation_id": shown["presentation_id"], "winner": choice}
        )
        self.answer = shown["messages"][1 if choice == "b" else 0]["id"]
        version = self.call("GET", f"/messages/{self.answer}")["version"]
        name = version["name"] if version else "the live version"
        out.print(styled("[dim]noted; you go on with the answer of {}[/]", name))

    def need_answer(self) -> None:
        if self.answer is None:
            raise Unavailable("There is no answer yet: ask something first.")

    def obey(self, line: str) -> bool:
        """Do what one line says; False ends the chat."""
        word, _, rest = line.partition(" ")
        match word:
            case "/quit" | "/exit":
                return False
            case "/new":
                self.conversation = self.question = self.answer = None
            case "/up" | "/down":
                self.thumb(1 if word == "/up" else -1, rest.strip())
            case "/fix" if rest.strip():
                self.fix(rest.strip())
            case "/two":
                self.two()
            case "/again":
                self.need_answer()
                self.generate()
            case _ if word.startswith("/"):
                out.print(HELP)
            case _ if line.strip():
                self.ask(line)
        return True


def which_is_better() -> str:
    """What the person says of two answers: `a`, `b`, `tie` or `both_bad`, in small or capital letters."""
    choices = ["a", "b", "tie", "both_bad"]
    return Prompt.ask("Which is better?", choices=choices, console=out, case_sensitive=False)


def chat(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(help="The server; by default TUTEE_HOST and TUTEE_PORT, or http://127.0.0.1:8000.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", help="API key, where the server asks for one.")
    ] = None,
) -> None:
    """Chat in the terminal with a running server. /help lists what can be done to an answer."""
    settings = settings_of(context)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = url or f"http://{settings.host}:{settings.port}"
    try:
        client = httpx.Client(base_url=url, headers=headers, timeout=None)
    except httpx.InvalidURL as error:
        raise InvalidInput(f"{url!r} is no address: {error}.", param="--url") from None
    with client as http:
        terminal = Terminal(http)
        live = terminal.call("GET", "/me")["live"]
        out.print(Markdown(f"**{live['name']}** (version {live['number']}). `/help` lists the commands."))
        while True:
            try:
                line = Prompt.ask("[bold green]you[/]", console=out)
                if not terminal.obey(line):
                    return
            except EOFError:
                return
            except TuteeError as error:
                err.print(styled("[red]error[/]: {}", error.message))
