"""Remove personal data and secrets from a text before anything is learned from it.

Works by shape and checksum alone: e-mail and IP addresses, phone and card numbers (Luhn), IBANs (ISO 7064), US social
security numbers, private keys, keys of well-known services, passwords that are named as such. It does not know names,
postal addresses or what a text is about, and it leaves alone what only looks like a secret: prices, dates, versions,
hashes, ISBNs, loopback addresses. Redacting twice changes nothing.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

MARK = re.compile(r"\[[A-Z_]+\]")
VERSION = "2"
"""Changes whenever the same text could be redacted otherwise; kept with every scrub record."""


@dataclass(frozen=True, slots=True)
class Entity:
    """One thing found: its kind and where it stood in the original (characters, end exclusive)."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text with every entity replaced by a mark such as `[EMAIL]`; entities in the order of the text."""

    text: str
    entities: tuple[Entity, ...]

    @property
    def remainder(self) -> str:
        """What is left of the text without the marks."""
        return MARK.sub("", self.text)

    @property
    def counts(self) -> dict[str, int]:
        """How many entities of each kind."""
        return dict(sorted(Counter(entity.kind for entity in self.entities).items()))


def redact(text: str) -> Redacted:
    """Replace what exposes a person or opens a door. Time is linear in the length of the text."""
    found: list[Entity] = []
    masked = text
    while new := list(_find(masked)):  # what stood glued to an entity may be one itself
        found = _merged(found + new)
        masked = _replaced(text, found, lambda entity: f"[{'X' * (entity.end - entity.start - 2)}]")
    return Redacted(_replaced(text, found, lambda entity: f"[{entity.kind}]"), tuple(found))


def _replaced(text: str, entities: list[Entity], mark: Callable[[Entity], str]) -> str:
    parts, at = [], 0
    for entity in entities:
        parts += [text[at : entity.start], mark(entity)]
        at = entity.end
    return "".join([*parts, text[at:]])


def _merged(entities: list[Entity]) -> list[Entity]:
    """In order of the text, overlapping ones as one of the first's kind."""
    merged: list[Entity] = []
    for entity in sorted(entities, key=lambda e: (e.start, -e.end)):
        if merged and entity.start < merged[-1].end:
            if entity.end > merged[-1].end:
                merged[-1] = Entity(merged[-1].kind, merged[-1].start, entity.end)
        else:
            merged.append(entity)
    return merged


def _find(text: str) -> Iterator[Entity]:
    lower = text.lower()
    for detector in DETECTORS:
        if not any(hint in lower for hint in detector.hints):
            continue
        for match in detector.pattern.finditer(text):
            end = detector.end(match)
            if end is not None:
                yield Entity(detector.kind, match.start("it"), end)


def _whole(match: re.Match[str]) -> int | None:
    return match.end("it")


@dataclass(frozen=True, slots=True)
class Detector:
    """A pattern whose group `it` is what to hide, and a check that says where it ends (None: a false alarm).

    One of the `hints` is in every text that the pattern matches; looking for them first makes plain prose cheap.
    """

    kind: str
    hints: Sequence[str]
    pattern: re.Pattern[str]
    end: Callable[[re.Match[str]], int | None] = _whole


def _when(check: Callable[[re.Match[str]], bool]) -> Callable[[re.Match[str]], int | None]:
    return lambda match: match.end("it") if check(match) else None


def _digits(match: re.Match[str]) -> str:
    return re.sub(r"[^0-9]", "", match["it"])


def passes_luhn(digits: str) -> bool:
    """The check digit of ISO/IEC 7812: every second digit from the right is doubled, the sum divides by ten."""
    doubled = (int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits)))
    return sum(n // 10 + n % 10 for n in doubled) % 10 == 0


ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|6(?:011|5\d\d|4[4-9]\d)\d{12}|62\d{14,17}"
)


def _card_end(match: re.Match[str]) -> int | None:
    """The longest run from here that is a card's: neither an expiry date nor a second card behind it may hide it."""
    places = [match.start("it") + i for i, c in enumerate(match["it"]) if c.isdigit()]
    for count in range(len(places), 12, -1):
        digits = _digits(match)[:count]
        end = places[count - 1] + 1
        if ISSUERS.fullmatch(digits) and passes_luhn(digits) and not match.string[end : end + 1].isalnum():
            return end
    return None


IBAN_TABLE = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 FO18
FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21
LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27
ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20
"""
IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in IBAN_TABLE.split()}


def _iban_end(match: re.Match[str]) -> int | None:
    """ISO 13616: each country has its length; the first four characters moved to the end leave 1 modulo 97."""
    wanted = IBAN_LENGTHS.get(match["it"][:2].upper())
    places = [match.start("it") + i for i, c in enumerate(match["it"]) if c != " "]
    if wanted is None or len(places) < wanted:
        return None
    end = places[wanted - 1] + 1
    if match.string[end : end + 1].isalnum():
        return None
    compact = match.string[match.start("it") : end].replace(" ", "").upper()
    number = "".join(str(int(c, 36)) for c in compact[4:] + compact[:4])
    return end if int(number) % 97 == 1 else None


NO_ADDRESS_BEFORE = re.compile(
    r"(?:\bv|version|ver\.?|release|build|section|chapter|clause|figure|fig\.?|table|article|paragraph|appendix|step"
    r"|rule|part|[§=<>~^])\s*$",
    re.IGNORECASE,
)
EVERYBODYS = {"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9"}
"""Public resolvers: named in every tutorial, nobody's address."""


def _is_ipv4(match: re.Match[str]) -> bool:
    try:
        address = ipaddress.IPv4Address(match["it"])
    except ValueError:
        return False
    if address.is_loopback or address.is_unspecified or match["it"].startswith("255.") or match["it"] in EVERYBODYS:
        return False
    return not NO_ADDRESS_BEFORE.search(match.string, max(0, match.start() - 16), match.start())


def _is_ipv6(match: re.Match[str]) -> bool:
    """Not `a::b`, which is a name in three programming languages: three groups and a digit."""
    try:
        ipaddress.IPv6Address(match["it"])
    except ValueError:
        return False
    groups = [group for group in match["it"].split(":") if group]
    return len(groups) >= 3 and any(c.isdigit() for c in match["it"])


def _is_phone(match: re.Match[str]) -> bool:
    digits = _digits(match)
    return 7 <= len(digits) <= 15 and not digits.endswith("00000") and len(set(digits)) > 2


def _is_international(match: re.Match[str]) -> bool:
    return len(_digits(match)) >= 8 and _is_phone(match)


def _is_national(match: re.Match[str]) -> bool:
    return 10 <= len(_digits(match)) <= 12 and _is_phone(match)


INSIDE_URL = re.compile(r"://[^\s/@]{0,100}:[^\s/]{0,200}$")
FILE_ENDINGS = {"png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "tsx", "jsx", "py", "mjs"}


def _is_email(match: re.Match[str]) -> bool:
    """Not `icon@2x.png`, not the `git@` of every repository address, not the password in `db://me:password@host`."""
    if match["it"].rpartition(".")[2].lower() in FILE_ENDINGS or match["it"].startswith("git@"):
        return False
    return not INSIDE_URL.search(match.string, max(0, match.start() - 300), match.start())


def _is_key(match: re.Match[str]) -> bool:
    """Not `sk-fading-circle-animation`, which is a class in a style sheet."""
    return _has_digits(match) or not str(match["it"]).startswith("sk-")


def _is_name_and_password(match: re.Match[str]) -> bool:
    """What stands behind `Basic` in a header is `name:password` in base64; `Basic authentication` is prose."""
    try:
        return b":" in base64.b64decode(f"{match['it'].rstrip('=')}===", altchars=b"-_", validate=False)
    except ValueError:
        return False


def _has_digits(match: re.Match[str]) -> bool:
    return len(_digits(match)) >= 3


PUBLIC_WORDS = re.compile(
    r"base64|sha-?\d|md5|utf-?\d|argon2|bcrypt|pbkdf2|aes|rsa|ed25519|oauth2|https?:|\d+[- ]?(?:char|bit|digit)",
    re.IGNORECASE,
)
PLACEHOLDER = re.compile(
    r"your|example|change|placeholder|xxx|\*\*\*|\.\.\.|^my[ _-]|^(?:password|secret|token|string|none|null)$",
    re.IGNORECASE,
)


def _is_password(match: re.Match[str]) -> bool:
    """A password holds a digit or a sign besides letters: `password: it must be long` names none."""
    value = match["it"]
    mixed = any(c.isalpha() for c in value) and any(c.isdigit() or c in "!@#%^&*?+~" for c in value)
    return mixed and not PUBLIC_WORDS.match(value)


def _is_quoted_password(match: re.Match[str]) -> bool:
    value = match["it"]
    return not PLACEHOLDER.search(value) and not re.fullmatch(r"[A-Z_]+|\s+", value)


def _detector(
    kind: str,
    hints: Sequence[str],
    pattern: str,
    check: Callable[[re.Match[str]], bool] | None = None,
    *,
    flags: re.RegexFlag = re.IGNORECASE,
) -> Detector:
    return Detector(kind, hints, re.compile(pattern, re.VERBOSE | flags), _when(check) if check else _whole)


NAMED = r"""(?:pass(?:wor[dt]|wd|phrase|code)?|pwd?|kennwort|mot\ de\ passe|contrase[ñn]a|senha|wachtwoord
    |secret|credentials?|client[ _-]?secret|api[ _-]?key
    |(?:secret|private|account|shared|access)[ _-]?(?:access[ _-]?)?key
    |(?:(?:access|auth|bearer|refresh|session|id|bot)[ _-]?)?token)"""
SERVICE_KEYS = r"""(?:
    (?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16} | gh[pousr]_[A-Za-z0-9]{36,255} | github_pat_[A-Za-z0-9_]{22,255}
    | glpat-[A-Za-z0-9_-]{20,64} | sk-[A-Za-z0-9_-]{20,250} | (?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,250}
    | whsec_[A-Za-z0-9+/]{24,64} | xox[abeoprs]-[A-Za-z0-9-]{10,250} | xapp-[A-Za-z0-9-]{10,250}
    | AIza[A-Za-z0-9_-]{35} | ya29\.[A-Za-z0-9_-]{20,250} | hf_[A-Za-z0-9]{30,64} | npm_[A-Za-z0-9]{36}
    | pypi-[A-Za-z0-9_-]{50,250} | dop_v1_[a-f0-9]{64} | SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{32,64}
    | dapi[a-f0-9]{32} | AGE-SECRET-KEY-1[A-Z0-9]{58} | [0-9]{8,10}:AA[A-Za-z0-9_-]{33}
    | eyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{4,4000}\.[A-Za-z0-9_-]{10,1000}
)"""
PEM = r"[A-Z0-9\ ]{0,40}PRIVATE\ KEY(?:\ BLOCK)?-----"
ENDS = r"(?![\w-]|[.,][0-9])"
"""What follows a number that is whole: no letter, no further digits."""

DIGIT = "0123456789"
NAMES = ("pass", "pw", "kennwort", "contrase", "senha", "wachtwoord", "secret", "credential", "key", "token")
CLOSED_AT = ("at)", "at]", "at )", "at ]")

DETECTORS = (
    _detector(
        "PRIVATE_KEY",
        ("-----begin",),
        rf"""(?P<it>-----BEGIN\ {PEM}(?:(?:(?!-----BEGIN)[\s\S]){{0,20000}}?-----END\ {PEM}
        |(?:\s{{1,4}}[A-Za-z0-9+/=]{{16,1000}}){{0,500}}))""",
    ),
    _detector("CREDENTIALS", ("://",), r"\b[a-z][a-z0-9+.-]{1,20}://(?P<it>[^\s/:@\[\]]{0,100}:[^\s/\[\]]{1,200})@"),
    _detector("KEY", DIGIT, rf"(?<![A-Za-z0-9_])(?P<it>{SERVICE_KEYS})(?![A-Za-z0-9_])", _is_key, flags=re.NOFLAG),
    _detector("KEY", ("bearer",), r"\bBearer\s+(?P<it>[A-Za-z0-9._~+/-]{20,2000}=*)", _has_digits),
    _detector("KEY", ("basic",), r"\bBasic\s+(?P<it>[A-Za-z0-9+/_-]{6,2000}=*)", _is_name_and_password),
    _detector(
        "SECRET",
        NAMES,
        rf"""(?<![A-Za-z]){NAMED}["']?\s*(?::=|:|=>?)\s*(?P<q>["'`])(?P<it>[^"'`\n\[\]{{}}<>$]{{4,200}})(?P=q)""",
        _is_quoted_password,
    ),
    _detector(
        "SECRET",
        NAMES,
        rf"""(?<![A-Za-z]){NAMED}\s*(?::|=|\b(?:is|was|ist|war|est|es|é)\b)\s*
        (?P<it>[^\s"'`,;(){{}}\[\]<>$]{{5,200}}[^\s"'`,;(){{}}\[\]<>$.!?:])(?![(\[])""",
        _is_password,
    ),
    _detector(
        "SECRET", ("pin",), rf"\bPIN(?:\ (?:code|number))?\s*(?:\bis\b|:|=)\s*(?P<it>[0-9]{{4,8}}){ENDS}(?!\s?%)"
    ),
    _detector(
        "SECRET", ("cv",), rf"\bC(?:VV|VC)2?(?:\ (?:code|number))?(?:\s*(?:\bis\b|:|=)\s*|\s)(?P<it>[0-9]{{3,4}}){ENDS}"
    ),
    _detector(
        "EMAIL",
        "@",
        r"""(?<![\w.%+-])(?P<it>[\w.%+'-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24})(?![\w-])""",
        _is_email,
    ),
    _detector(
        "EMAIL",
        CLOSED_AT,
        r"""(?<![\w.-])(?P<it>[\w.-]{1,64}\ ?[\[(]\ ?at\ ?[\])]\ ?[\w-]{1,63}
        (?:\ ?(?:\.|[\[(]\ ?dot\ ?[\])])\ ?[\w-]{2,63}){1,4})""",
    ),
    # found in a lookahead, so that one which proves false hides nothing that begins inside it
    Detector(
        "IBAN", DIGIT, re.compile(r"(?<![A-Za-z0-9])(?=(?P<it>[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,36}))", re.I), _iban_end
    ),
    Detector("CARD", DIGIT, re.compile(r"(?<![\w.,])(?<![0-9]-)(?=(?P<it>[0-9]{4}(?:[ -]?[0-9]){9,15}))"), _card_end),
    _detector("SSN", DIGIT, rf"(?<![\w.-])(?P<it>(?!000|666|9)[0-9]{{3}}-(?!00)[0-9]{{2}}-(?!0000)[0-9]{{4}}){ENDS}"),
    _detector("IP", DIGIT, rf"(?<![\w.-])(?P<it>[0-9]{{1,3}}(?:\.[0-9]{{1,3}}){{3}}){ENDS}", _is_ipv4),
    _detector("IP", ":", r"(?<![\w:.])(?P<it>[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7})(?![\w:])", _is_ipv6),
    _detector("MAC", ":-", r"(?<![\w:-])(?P<it>[0-9a-f]{2}(?P<s>[:-])(?:[0-9a-f]{2}(?P=s)){4}[0-9a-f]{2})(?![\w:-])"),
    _detector(
        "PHONE",
        "+",
        r"""(?<![\w+)])(?P<it>\+[1-9][0-9]{0,3}(?:[\ .-]?(?:\(0?\)|\([0-9]{1,5}\)|[0-9]{1,12})){1,7})
        (?!\w|[.,][0-9])""",
        _is_international,
    ),
    _detector(
        "PHONE",
        DIGIT,
        rf"""(?<![\w.,+/-])(?P<it>(?:\+?1[\ .-])?(?:\([2-9][0-9]{{2}}\)\ ?|[2-9][0-9]{{2}}[.-])
        [2-9][0-9]{{2}}[\ .-][0-9]{{4}}){ENDS}""",
        _is_phone,
    ),
    _detector(
        "PHONE",
        "0",
        rf"""(?<![\w.,+/:-])(?P<it>0[0-9](?:(?P<s>[\ .-])[0-9]{{2}})(?:(?P=s)[0-9]{{2}}){{3}}
        |\(?0[1-9][0-9]{{1,4}}\)?[\ /-][0-9]{{3,8}}(?:[\ -][0-9]{{3,6}})?){ENDS}(?!:)""",
        _is_national,
    ),
    _detector(
        "PHONE",
        DIGIT,
        r"""\b(?:(?:tele)?phone|tel|mobile|cell|whatsapp|fax|sms|call|text|dial|ring|reach
        |(?:my|his|her|our|their)\ number)
        (?:\.|\ (?:me|us|him|her|them|number|no\.?|at|on|is)){0,4}[:\s]\s{0,3}
        (?P<it>\+?\(?[0-9](?:[\ ./()-]{0,2}[0-9]){6,14})(?![\w%]|[.,][0-9]|\ ?[$€£%])""",
        _is_phone,
    ),
)
