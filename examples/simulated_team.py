"""A made-up team teaches a served assistant its house style, over HTTP only, and measures what that changed.

    python examples/simulated_team.py --labels 150 --seed 0            # starts its own servers in empty homes
    python examples/simulated_team.py --labels 150 --base-url http://127.0.0.1:8000

The team has a hidden taste (class `HouseStyle`) that the server can only learn from what people give: comparisons and
thumbs that are noisy (asked twice, a member agrees with himself in about 77 % of the cases), and some corrections.
The script labels, presses "improve", votes blindly between the candidate and the live version until the gate has made
up its mind, promotes if it passed, and measures the gold score on prompts that nobody labelled. A control team does
exactly the same with coin flips for labels. Nothing in the `tutee` package knows this file.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

MEMBERS = ("ada", "grace", "edsger", "barbara", "donald", "frances")
CONCURRENCY = 16
VOTES_A_ROUND = 12
MAX_VOTES = 180

# --- what the team talks about -----------------------------------------------------------------------------------

HOW_TO = """clean a coffee maker|remove a wine stain from a shirt|boil an egg|water a cactus|fold a fitted sheet
keep bread fresh|sharpen a kitchen knife|write a thank you note|plan a birthday party|pack a small suitcase
save money on groceries|learn ten new words a day|fall asleep faster|stretch before a run|brew green tea
ripen an avocado|wash a wool sweater|store fresh basil|organize a messy desk|make a simple budget
ask for a day off|prepare for an interview|train a puppy to sit|stop a dripping tap|choose a ripe melon
read more books|take better photos with a phone|keep cut flowers alive|clean a dirty window|cook plain rice
start a small garden|remember people's names|fix a squeaky door|iron a shirt|change a bicycle tire
make a paper airplane|calm a crying baby|peel garlic quickly|defrost chicken safely|polish leather shoes""".replace(
    "\n", "|"
)
WHAT_IS = """photosynthesis|a mortgage|gravity|compost|inflation|a haiku|the water cycle|a vitamin|a solar panel
an ecosystem|a habit|the internet|a rainbow|a volcano|insurance|a podcast|the moon|a glacier|fermentation
an algorithm|a metaphor|a budget|a magnet|a fossil|democracy|a black hole|an allergy|a symphony|yeast|a tide""".replace(
    "\n", "|"
)
WHY = """is the sky blue|do leaves change color in autumn|do cats purr|is the sea salty|do we yawn|do onions make us cry
is sleep important|do birds migrate|does ice float on water|do we dream|is exercise good for the heart
do bees make honey|does bread rise|do stars twinkle|do plants need light|is reading useful
does metal rust|do we have seasons|is breakfast important|do dogs wag their tails""".replace("\n", "|")
TIP_FOR = """a first day at a new job|a long flight|a healthy lunch|a rainy weekend|learning the guitar
a quiet evening|working from home|a family picnic|a better morning routine|running in the cold|a small kitchen
a job interview|studying for an exam|a camping trip|meeting new neighbors
saving electricity|a short speech|walking every day""".replace("\n", "|")
LIST_OF = """fruits that grow on trees|ways to save water at home|animals that live in the forest|healthy snacks
things to pack for the beach|hobbies for winter|tools every home needs|vegetables for a soup|board games for families
ways to say thank you|books for children|reasons to learn a language|breakfast ideas|sports you can play indoors
plants for a dark room|gifts for a teacher|ways to relax after work|countries in Europe|musical instruments
spices for a curry|things to do on a train|colors of autumn leaves|chores for children|kinds of cheese
questions for an interview|ways to reuse glass jars|birds in a garden|jobs that help people|desserts with apples
habits of good students""".replace("\n", "|")
NUMBERS = ("three", "four", "five")


PHRASES = {
    HOW_TO: ("How do I {}?", "What is the best way to {}?", "Can you tell me how to {}?"),
    WHAT_IS: ("What is {}?", "Explain {} to a child."),
    WHY: ("Why {}?", "Please explain why {}."),
    TIP_FOR: ("Give me one tip for {}.", "What should I know about {}?"),
    LIST_OF: ("List {} {}.", "Name {} {}.", "What are {} {}?"),
}
LEADS = {
    HOW_TO: "To {}, a few simple steps are enough.",
    WHAT_IS: "The idea of {} is simple to explain.",
    WHY: "There is a simple reason why {}.",
    TIP_FOR: "For {}, keep a few simple things in mind.",
    LIST_OF: "{}:",
}


@dataclass(frozen=True)
class Prompt:
    """One everyday question. `wants_list` is true when three or more things are asked for."""

    text: str
    topic: str
    lead: str
    wants_list: bool

    @property
    def content_words(self) -> set[str]:
        return content_words(self.text) - {stem(number) for number in NUMBERS}


def prompts_by_topic() -> list[list[Prompt]]:
    """About 350 short prompts, the two or three phrasings of a topic together; always in the same order."""
    groups = []
    for topics, phrases in PHRASES.items():
        for i, topic in enumerate(topics.split("|")):
            lead = LEADS[topics].format(swap_verb(topic) if topics is WHY else topic)
            group = []
            for j, phrase in enumerate(phrases):
                if topics is LIST_OF:
                    text = phrase.format(NUMBERS[(i + j) % 3], topic)
                else:
                    text = phrase.format(swap_verb(topic) if phrase.startswith("Please") else topic)
                group.append(Prompt(text, topic, lead[0].upper() + lead[1:], topics is LIST_OF))
            groups.append(group)
    random.Random(1234).shuffle(groups)
    return groups


def split_prompts(measure: int = 64, vote: int = 64) -> tuple[list[Prompt], list[Prompt], list[Prompt]]:
    """Prompts to measure on, to vote on and to label; no topic is in two of them."""
    parts: tuple[list[Prompt], list[Prompt], list[Prompt]] = ([], [], [])
    for group in prompts_by_topic():
        part = 0 if len(parts[0]) < measure else 1 if len(parts[1]) < vote else 2
        parts[part].extend(group)
    return parts[0][:measure], parts[1][:vote], parts[2]


def swap_verb(question: str) -> str:
    """`is the sky blue` → `the sky is blue`, well enough for a prompt."""
    verb, _, rest = question.partition(" ")
    if verb in ("do", "does"):
        return rest
    words = rest.split(" ")
    cut = 2 if words[0] == "the" else 1
    return " ".join([*words[:cut], verb, *words[cut:]])


# --- the hidden taste ----------------------------------------------------------------------------------------------

STOP_TEXT = """
a about an and are as at be best by can child day do does down every explain first for from get give go good had has
have how i important in is it its just know let like list make me more my name need needs new of on one or our out
please should small so some tell that the their them then they thing things this time tip to up use very want was way
ways we
what when which why will with work you your
"""
STOP_WORDS = frozenset(STOP_TEXT.split())
BOILERPLATE = re.compile(
    r"^\W*(sure|certainly|of course|absolutely|great question|good question|as an ai|i'?d be happy|i'?m happy|"
    r"i'?m glad|i am happy|i'?m here to help|here'?s|here is|here are|thank you for|"
    r"thanks for|hello|hi\b|to answer your question)",
    re.IGNORECASE,
)
APOLOGY = re.compile(r"\b(sorry|apolog|unfortunately|i can'?t|i cannot|i'?m unable)", re.IGNORECASE)
ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+\S", re.MULTILINE)


def words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z0-9'’-]+", text)


def stem(word: str) -> str:
    word = word.lower().replace("’", "'").removesuffix("'s")
    for ending in ("ies", "ing", "ed", "es", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def content_words(text: str) -> set[str]:
    return {stem(word) for word in words(text) if word.lower() not in STOP_WORDS and len(word) > 2}


@dataclass(frozen=True)
class Answer:
    text: str
    finished: bool


class HouseStyle:
    """The team's taste: the gold score in [0, 1] is relevance times the mean of four rules of style."""

    @staticmethod
    def parts(prompt: Prompt, answer: Answer) -> dict[str, float]:
        count = len(words(answer.text))
        length = max(0.0, (count - 5) / 10) if count < 15 else 1.0 if count <= 60 else max(0.0, 1 - (count - 60) / 60)
        items = len(ITEM.findall(answer.text))
        listed = float(items >= 3) if prompt.wants_list else float(items == 0)
        opener = float(not BOILERPLATE.match(answer.text) and not APOLOGY.search(answer.text))
        ending = float(answer.finished and bool(answer.text.strip()) and not answer.text.rstrip().endswith(("?", ":")))
        wanted = prompt.content_words
        relevance = len(wanted & content_words(answer.text)) / len(wanted) if wanted else 1.0
        return {"length": length, "list": listed, "opener": opener, "ending": ending, "relevance": relevance}

    @classmethod
    def gold(cls, prompt: Prompt, answer: Answer) -> float:
        parts = cls.parts(prompt, answer)
        style = (parts["length"] + parts["list"] + parts["opener"] + parts["ending"]) / 4
        return parts["relevance"] * style


def correct(prompt: Prompt, answer: Answer) -> str:
    """What a member makes of an answer with a red pen: the same content, in the house style."""
    lines = [line.strip() for line in answer.text.splitlines() if line.strip()]
    items = [re.sub(r"^(?:[-*•]|\d+[.)])\s+", "", line) for line in lines if ITEM.match(line)]
    items = [re.split(r"(?<=[.!?])\s|:\s|\s[-–]\s", item.replace("**", ""))[0].strip(" .:") for item in items]
    items = [" ".join(item.split()[:8]) for item in items if item]
    prose = " ".join(line for line in lines if not ITEM.match(line)).replace("**", "")
    sentences = [s.strip() for s in re.split(r"(?<=[.!?])\s+", prose) if s.strip().endswith((".", "!"))]
    sentences = [s for s in sentences if not BOILERPLATE.match(s) and not APOLOGY.search(s)]
    if prompt.wants_list:
        if len(items) < 3:
            items = (items + [" ".join(s.split()[:8]).strip(" .") for s in sentences])[:4]
        return f"{prompt.lead}\n" + "\n".join(f"- {item}" for item in items[:5])
    kept: list[str] = []
    for sentence in sentences + [f"{item[0].upper()}{item[1:]}." for item in items]:
        if len(words(" ".join([*kept, sentence]))) > 48:
            break
        kept.append(sentence)
    if prompt.content_words - content_words(" ".join(kept)) or len(words(" ".join(kept))) < 15:
        kept.insert(0, prompt.lead)
    return " ".join(kept)


# --- the team ------------------------------------------------------------------------------------------------------


@dataclass
class Member:
    """A person with the hidden taste, or (in the control team) with none: then every judgement is a coin flip."""

    handle: str
    dice: random.Random
    has_taste: bool
    patience: float = field(default=0.085)
    """Noise τ of a comparison, P(prefer a) = σ((gold_a − gold_b)/τ); .085 gives a self-agreement near .77."""

    def prefers_first(self, first: float, second: float) -> bool:
        if not self.has_taste:
            return self.dice.random() < 0.5
        return self.dice.random() < 1 / (1 + math.exp(-(first - second) / self.patience))

    def thumb(self, gold: float) -> int:
        if not self.has_taste:
            return self.dice.choice((1, -1))
        return 1 if self.dice.random() < 1 / (1 + math.exp(-(gold - 0.5) / (2 * self.patience))) else -1


class Assistant:
    """The served assistant as the team sees it: HTTP, nothing else."""

    def __init__(self, base_url: str, max_tokens: int) -> None:
        self.http = httpx.Client(base_url=base_url, timeout=600)
        self.sampling = {"temperature": 0.9, "max_tokens": max_tokens}
        self.max_tokens = max_tokens

    def call(self, method: str, path: str, handle: str | None = None, body: Any = None) -> Any:
        headers = {"X-Tutee-Actor": handle} if handle else {}
        try:
            reply = self.http.request(method, f"/v1{path}", json=body, headers=headers)
        except httpx.TransportError as error:
            raise SystemExit(f"{self.http.base_url} does not answer ({error}); start it with `tutee serve`.") from None
        if reply.is_error:
            raise SystemExit(f"{method} {path}: {reply.status_code} {reply.text[:400]}")
        return reply.json()

    def ask(self, member: Member, prompt: Prompt, compare: bool) -> dict[str, Any]:
        """Ask in a fresh conversation; waits until every answer is finished."""
        conversation = self.call("POST", "/tutee/conversations", member.handle, {})
        path = f"/tutee/conversations/{conversation['id']}"
        turn = self.call("POST", f"{path}/messages", member.handle, {"content": prompt.text, "parent_id": None})
        body = {"parent_id": turn["id"], "compare": compare, "sampling": self.sampling}
        shown = self.call("POST", f"{path}/generate", member.handle, body)
        for message in shown["messages"]:
            with self.http.stream(
                "GET", f"/v1/tutee/messages/{message['id']}/stream", headers={"X-Tutee-Actor": member.handle}
            ) as reply:
                for _ in reply.iter_bytes():
                    pass
        answers = [self.call("GET", f"/tutee/messages/{m['id']}", member.handle) for m in shown["messages"]]
        return {"presentation_id": shown["presentation_id"], "messages": answers}

    def complete(self, model: str, prompt: Prompt, temperature: float, seed: int) -> Answer:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt.text}],
            "temperature": temperature,
            "seed": seed,
            "max_tokens": self.max_tokens,
        }
        choice = self.call("POST", "/chat/completions", None, body)["choices"][0]
        return Answer(choice["message"]["content"], choice["finish_reason"] == "stop")


def as_answer(message: dict[str, Any]) -> Answer:
    return Answer(message["content"] or "", message["finish_reason"] == "stop")


def in_parallel(work: Callable[[Any], Any], items: list[Any], what: str) -> list[Any]:
    """Run `work` over `items` a few at a time, as a team would; one progress line."""
    results = []
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        for i, result in enumerate(pool.map(work, items), 1):
            results.append(result)
            if i % 10 == 0 or i == len(items):
                print(f"\r  {what}: {i}/{len(items)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return results


@dataclass
class Team:
    """Members, their assistant, and the prompts they use for labelling, voting and (never labelled) measuring."""

    assistant: Assistant
    members: list[Member]
    label_prompts: list[Prompt]
    vote_prompts: list[Prompt]
    measure_prompts: list[Prompt]

    def consent(self) -> None:
        for member in self.members:
            self.assistant.call("PUT", "/tutee/consent", member.handle, {"train": True})

    def label(self, labels: int, corrections: int) -> None:
        """Four comparisons to a thumb; then corrections of answers that a member did not like."""

        def one(i: int) -> None:
            member = self.members[i % len(self.members)]
            prompt = self.label_prompts[i % len(self.label_prompts)]
            compare = i % 5 != 4 and i < labels
            shown = self.assistant.ask(member, prompt, compare=compare)
            if i >= labels:
                self.correct(member, prompt, shown["messages"][0])
            elif compare:
                self.vote(member, prompt, shown)
            else:
                message = shown["messages"][0]
                value = member.thumb(HouseStyle.gold(prompt, as_answer(message)))
                body = {"kind": "thumb", "message_id": message["id"], "value": value}
                self.assistant.call("POST", "/tutee/feedback", member.handle, body)

        in_parallel(one, list(range(labels + corrections)), "labels and corrections")

    def vote(self, member: Member, prompt: Prompt, shown: dict[str, Any]) -> None:
        first, second = (HouseStyle.gold(prompt, as_answer(message)) for message in shown["messages"])
        winner = "a" if member.prefers_first(first, second) else "b"
        body = {"kind": "compare", "presentation_id": shown["presentation_id"], "winner": winner, "dwell_ms": 6000}
        self.assistant.call("POST", "/tutee/feedback", member.handle, body)

    def correct(self, member: Member, prompt: Prompt, message: dict[str, Any]) -> None:
        """The control team has no taste to correct towards: it shuffles the sentences that it found."""
        answer = as_answer(message)
        text = correct(prompt, answer)
        if not member.has_taste:
            sentences = re.split(r"(?<=[.!?\n])\s+", answer.text.strip())
            member.dice.shuffle(sentences)
            text = " ".join(sentences)
        if text.strip() and text.strip() != answer.text.strip():
            body = {"kind": "edit", "message_id": message["id"], "content": text}
            self.assistant.call("POST", "/tutee/feedback", member.handle, body)

    def improve(self) -> dict[str, Any]:
        """Press the button and wait; returns the finished job."""
        job = self.assistant.call("POST", "/tutee/improve", None, {})
        shown = ""
        while True:
            job = self.assistant.call("GET", f"/tutee/jobs/{job['id']}")
            at = job.get("progress") or {}
            line = f"  improve: {job['status']} {at.get('stage')} {at.get('step')}/{at.get('total_steps')}"
            if line != shown:
                print(f"\r{line:<78}", end="", file=sys.stderr, flush=True)
                shown = line
            if job["status"] in ("succeeded", "failed", "cancelled"):
                print(file=sys.stderr)
                return dict(job)
            time.sleep(1)

    def gate(self, version_id: str) -> tuple[dict[str, Any], int]:
        """Blind votes until the gate says pass or fail; returns its last word and the votes given."""
        votes = 0
        verdict = self.assistant.call("POST", f"/tutee/versions/{version_id}/gate", None, {})
        while verdict["verdict"] == "insufficient" and votes < MAX_VOTES:

            def one(i: int) -> None:
                member = self.members[i % len(self.members)]
                prompt = self.vote_prompts[i % len(self.vote_prompts)]
                self.vote(member, prompt, self.assistant.ask(member, prompt, compare=True))

            in_parallel(one, list(range(votes, votes + VOTES_A_ROUND)), "blind votes")
            votes += VOTES_A_ROUND
            verdict = self.assistant.call("POST", f"/tutee/versions/{version_id}/gate", None, {})
        return verdict, votes

    def measure(self, model: str, temperature: float, samples: int) -> list[list[tuple[Prompt, Answer]]]:
        """`samples` answers a measuring prompt."""
        jobs = [(prompt, sample) for prompt in self.measure_prompts for sample in range(samples)]
        answers = in_parallel(
            lambda job: self.assistant.complete(model, job[0], temperature, seed=7_000 + job[1]),
            jobs,
            f"answers of {model}",
        )
        grouped: list[list[tuple[Prompt, Answer]]] = [[] for _ in self.measure_prompts]
        for i, (job, answer) in enumerate(zip(jobs, answers, strict=True)):
            grouped[i // samples].append((job[0], answer))
        return grouped


# --- numbers -------------------------------------------------------------------------------------------------------


def gold_by_prompt(grouped: list[list[tuple[Prompt, Answer]]]) -> list[float]:
    return [sum(HouseStyle.gold(*pair) for pair in group) / len(group) for group in grouped]


def paired_bootstrap(
    before: list[float], after: list[float], seed: int, rounds: int = 4000
) -> tuple[float, float, float]:
    """Mean gain and its 95 % percentile interval over prompts."""
    gains = [b - a for a, b in zip(before, after, strict=True)]
    dice = random.Random(seed)
    means = sorted(sum(dice.choices(gains, k=len(gains))) / len(gains) for _ in range(rounds))
    return sum(gains) / len(gains), means[int(0.025 * rounds)], means[int(0.975 * rounds)]


def describe(grouped: list[list[tuple[Prompt, Answer]]]) -> dict[str, float]:
    pairs = [pair for group in grouped for pair in group]
    out = {
        name: sum(HouseStyle.parts(*pair)[name] for pair in pairs) / len(pairs)
        for name in ("length", "list", "opener", "ending", "relevance")
    }
    counts = [len(words(answer.text)) for _, answer in pairs]
    out["words"] = sum(counts) / len(counts)
    out["under_8_words"] = sum(count < 8 for count in counts) / len(counts)
    out["finished"] = sum(answer.finished for _, answer in pairs) / len(pairs)
    return {name: round(value, 3) for name, value in out.items()}


@dataclass
class Outcome:
    """What one team's round did to the model."""

    verdict: str
    promoted: bool
    votes: int
    minutes: float
    numbers: dict[str, Any]


def run_team(base_url: str, labels: int, corrections: int, seed: int, has_taste: bool, max_tokens: int) -> Outcome:
    """Labels → improve → votes → promote, then the measurement. The clock stops before the measurement."""
    measure, vote, label = split_prompts()
    random.Random(seed).shuffle(label)
    members = [Member(handle, random.Random(f"{seed}-{handle}"), has_taste) for handle in MEMBERS]
    team = Team(Assistant(base_url, max_tokens), members, label, vote, measure)
    base = team.assistant.call("GET", "/tutee/me")["live"]["name"]

    started = time.monotonic()
    team.consent()
    team.label(labels, corrections)
    job = team.improve()
    version_id = job.get("version_id")
    if not version_id:
        error = (job.get("error") or {}).get("message", job["status"])
        print(f"  no version: {error}", file=sys.stderr)
        return Outcome(f"no version: {error}", False, 0, (time.monotonic() - started) / 60, {})
    version = team.assistant.call("GET", f"/tutee/versions/{version_id}")
    for note in version["card"]["notes"]:
        print(f"  recipe · {note}", file=sys.stderr)
    verdict, votes = team.gate(version_id)
    for check in verdict["checks"]:
        word = "warning" if check["verdict"] == "fail" and not check["blocking"] else check["verdict"]
        print(f"  gate · {check['name']}: {word} · {check['reason']}", file=sys.stderr)
    promoted = verdict["verdict"] == "pass"
    if promoted:
        team.assistant.call("POST", f"/tutee/versions/{version_id}/promote", None, {"reason": "the gate passed"})
    minutes = (time.monotonic() - started) / 60

    before, after = (team.measure(model, 0.7, 2) for model in (base, version["name"]))
    greedy_before, greedy_after = (team.measure(model, 0.0, 1) for model in (base, version["name"]))
    gain, low, high = paired_bootstrap(gold_by_prompt(before), gold_by_prompt(after), seed)
    greedy, greedy_low, greedy_high = paired_bootstrap(
        gold_by_prompt(greedy_before), gold_by_prompt(greedy_after), seed
    )
    numbers = {
        "gold_before": sum(gold_by_prompt(before)) / len(before),
        "gold_after": sum(gold_by_prompt(after)) / len(after),
        "gain": gain,
        "gain_low": low,
        "gain_high": high,
        "greedy_before": sum(gold_by_prompt(greedy_before)) / len(greedy_before),
        "greedy_gain": greedy,
        "greedy_low": greedy_low,
        "greedy_high": greedy_high,
        "before": describe(before),
        "after": describe(after),
    }
    return Outcome(verdict["verdict"], promoted, votes, minutes, numbers)


# --- servers of our own ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def own_server(name: str) -> Iterator[str]:
    """`tutee serve` in an empty home on a free port, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=f"tutee-{name}-") as home, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        models = Path(os.environ.get("TUTEE_HOME", "~/.tutee")).expanduser() / "models"
        if models.is_dir():
            (Path(home) / "models").symlink_to(models)
        command = [sys.executable, "-m", "tutee", "serve", "--port", str(port)]
        with open(Path(home) / "serve.log", "w+") as log:
            server = subprocess.Popen(command, env={**os.environ, "TUTEE_HOME": home}, stdout=log, stderr=log)
            try:
                url = f"http://127.0.0.1:{port}"
                wait_until_ready(url, server, Path(home) / "serve.log")
                yield url
            finally:
                server.terminate()
                server.wait(30)


def wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"the server stopped:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health").status_code == 200:
                return
        time.sleep(0.5)
    raise SystemExit(f"{url} was not ready after five minutes:\n{log.read_text()[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base-url", help="a running server with a fresh home; without it the script starts its own")
    parser.add_argument("--control-base-url", help="likewise for the control team")
    parser.add_argument("--labels", type=int, default=150, help="comparisons and thumbs (four to one)")
    parser.add_argument("--corrections", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=96, help="longest answer, in tokens")
    parser.add_argument("--no-control", action="store_true", help="skip the team with random labels")
    arguments = parser.parse_args()
    for name, least in (("labels", 10), ("corrections", 0), ("max_tokens", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")

    def run(url: str | None, name: str, has_taste: bool) -> Outcome:
        print(f"{name} team, {arguments.labels} labels and {arguments.corrections} corrections", file=sys.stderr)
        with contextlib.nullcontext(url) if url else own_server(name) as address:
            return run_team(
                address, arguments.labels, arguments.corrections, arguments.seed, has_taste, arguments.max_tokens
            )

    team = run(arguments.base_url, "taste", has_taste=True)
    control = None if arguments.no_control else run(arguments.control_base_url, "control", has_taste=False)
    numbers = {k: round(v, 3) if isinstance(v, float) else v for k, v in team.numbers.items()}
    result = {
        **numbers,
        "control_gain": None if control is None else round(control.numbers.get("gain", 0.0), 3),
        "control_verdict": None if control is None else control.verdict,
        "control_promoted": None if control is None else control.promoted,
        "labels": arguments.labels,
        "corrections": arguments.corrections,
        "votes": team.votes,
        "minutes": round(team.minutes, 1),
        "verdict": team.verdict,
        "promoted": team.promoted,
        "seed": arguments.seed,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
