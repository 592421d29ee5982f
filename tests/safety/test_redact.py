"""What must go, what must stay, and that a hostile text costs no more time than a long one."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutee.safety.redact import ISSUERS, passes_luhn, redact

TOKEN = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA1bC2dE"

GONE = {
    "Authorization: Basic YWRhOmxvdmVsYWNl": "Authorization: Basic [KEY]",
    "Mein Passwort ist Sommer2024!": "Mein Passwort ist [SECRET]!",
    "Kennwort: geheim123": "Kennwort: [SECRET]",
    "mot de passe : Azerty123": "mot de passe : [SECRET]",
    "contraseña: Hola1234": "contraseña: [SECRET]",
    "the pw is s3cret!x": "the pw is [SECRET]",
    "write to jane.doe+news@mail.example.co.uk today": "write to [EMAIL] today",
    "jörg@müller.de, o'neil@x.ie": "[EMAIL], [EMAIL]",
    "john (at) acme (dot) com": "[EMAIL]",
    "<commit@email.xx>": "<[EMAIL]>",
    "card 4111 1111 1111 1111 exp 12/27": "card [CARD] exp 12/27",
    "5555-5555-5555-4444 or 378282246310005.": "[CARD] or [CARD].",
    "4111 1111 1111 1111 12/27 123": "[CARD] 12/27 123",
    "2 x 4111 1111 1111 1111 5555 5555 5555 4444": "2 x [CARD] [CARD]",
    "2024 4111-1111-1111-1111": "2024 [CARD]",
    "IBAN DE89 3704 0044 0532 0130 00 please": "IBAN [IBAN] please",
    "GB82WEST12345698765432": "[IBAN]",
    "from fr1420041010050500013M02606,": "from [IBAN],",
    "at 203.0.113.7:8080 and 192.168.1.17": "at [IP]:8080 and [IP]",
    "ping 2001:db8::8a2e:370:7334 or fe80::1ff:fe23:4567:890a": "ping [IP] or [IP]",
    "mac 00:1B:44:11:3A:B7": "mac [MAC]",
    "AKIAIOSFODNN7EXAMPLE": "[KEY]",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY": "aws_secret_access_key = [SECRET]",
    f"ghp_{TOKEN[:36]} and github_pat_{TOKEN}": "[KEY] and [KEY]",
    f"OPENAI_API_KEY=sk-proj-{TOKEN}": "OPENAI_API_KEY=[KEY]",
    f"use sk-ant-api03-{TOKEN}": "use [KEY]",
    "xoxb-123456789012-abcdefABCDEF": "[KEY]",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P": "[KEY]",
    "Authorization: Bearer abcdefghijklmnop1234567890": "Authorization: Bearer [KEY]",
    "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIBOgIB\nAAJ+/Bk=\n-----END RSA PRIVATE KEY-----\nb": "a\n[PRIVATE_KEY]\nb",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA": "[PRIVATE_KEY]",
    "postgres://admin:s3cr3t@db.internal:5432/app": "postgres://[CREDENTIALS]@db.internal:5432/app",
    "https://jane:p@ss@example.com/x": "https://[CREDENTIALS]@example.com/x",
    "redis://:hunter2@localhost": "redis://[CREDENTIALS]@localhost",
    "password: hunter22": "password: [SECRET]",
    "my password is Tr0ub4dor&3.": "my password is [SECRET].",
    '{"api_key": "abcd-efgh"}': '{"api_key": "[SECRET]"}',
    "DB_PASSWORD=pa55word\n": "DB_PASSWORD=[SECRET]\n",
    "my PIN is 4821.": "my PIN is [SECRET].",
    "CVV 123": "CVV [SECRET]",
    "call me at 4155552671 today": "call me at [PHONE] today",
    "(415) 555-2671, 415-555-2672, 1-800-555-0199": "[PHONE], [PHONE], [PHONE]",
    "+44 20 7946 0958, +49 (0)30 1234567, +14155552671": "[PHONE], [PHONE], [PHONE]",
    "06 12 34 56 78; 07700 900123; 020 7946 0958; 0171/1234567": "[PHONE]; [PHONE]; [PHONE]; [PHONE]",
    "SSN 123-45-6789": "SSN [SSN]",
}

STAYS = """
Basic authentication sends a name and a password.
BASIC programs had line numbers.
Das Passwort ist vergessen.
500 pw of power
The price rose from $1,234.56 to 1.299,00 EUR between 2024-01-15, 15/03/2024 and 01.02.2024.
Version 1.2.3.4, v10.0.0.1, Chrome 120.0.6099.109, section 2.3.4.5, pkg==1.2.3.4, >=1.2.3.4
http://127.0.0.1:8000, 0.0.0.0, 255.255.255.0, 8.8.8.8, 300.1.2.3, 1.2.3.4.5
ISBN 978-3-16-148410-0, 0-306-40615-2, order 1234567890123456, 4111111111111112
At 12:30:45 on the 3rd; ratio 3:2:1; std::vector<a::b::c>; f::g; ::1
Pi is 3.14159265358979323846 and 0.4111111111111111 is not a card
sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855, 550e8400-e29b-41d4-a716-446655440000
The password: it must be long. Password is required. The token is base64-encoded. The password is 8 characters.
password = get_password(); token = tokens[0]; api_key = os.environ["KEY"]; max_tokens: 100000; token: 12345678
The secret: 12 eggs. Pass: 7 of 10. Is the secret ingredient is cinnamon?
The phone costs 1200 dollars; call 911; call 20 people; +10 000 000 people; text 100 words; call 1000000 times
icon@2x.png, git@github.com:org/repo.git, foo@1.2.3, @user, a @ b, user@localhost
1-2-3, 2020-2021, 100-200-300, 555-1234, 02139-4307, 24/7, 1600 1700 1800, 250 500 1000
The population is 331 449 281 or 1 234 567 890; 2^64=18446744073709551616
Flight LH 454 at 10:05, RFC 9562, ISO 8601:2004, x = 12-34-56 + 7
password: "your_password_here", secret='...', token="<YOUR_TOKEN>"
sk-learn-is-a-nice-library-for-people and class="sk-fading-circle-animation"
2024-11-21T21:46:30.123456Z 1732225590 1732225590123
Pin 3 of the connector; pin 100 notes; the CVV is three digits; Rolling pin529.
Latitude 48.858370, 2.294481; -122.419416; 1e-10; 6.022e23
DE12 is a postcode and IBAN starts with DE89 but is longer; AT 61 trains
[EMAIL] and [PHONE] are marks already
""".strip().splitlines()


@pytest.mark.parametrize("text", GONE)
def test_what_exposes_somebody_goes(text: str) -> None:
    assert redact(text).text == GONE[text]


@pytest.mark.parametrize("text", STAYS)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert redact(text).text == text


def test_a_whole_text_of_both_is_redacted_piece_by_piece() -> None:
    pieces = [*GONE, *STAYS]
    random.Random(0).shuffle(pieces)
    assert redact("\n\n".join(pieces)).text == "\n\n".join(GONE.get(piece, piece) for piece in pieces)


def test_entities_say_what_stood_where() -> None:
    text = "From ann@x.org to 203.0.113.9 by bob@x.org"
    found = redact(text)
    assert [(e.kind, text[e.start : e.end]) for e in found.entities] == [
        ("EMAIL", "ann@x.org"),
        ("IP", "203.0.113.9"),
        ("EMAIL", "bob@x.org"),
    ]
    assert found.counts == {"EMAIL": 2, "IP": 1}
    assert found.remainder == "From  to  by "


@given(st.lists(st.sampled_from([*GONE, *STAYS, " ", "\n", ": ", "@", "-", "0", "a"]), max_size=6).map("".join))
def test_redacting_twice_changes_nothing(text: str) -> None:
    once = redact(text).text
    assert redact(once).text == once


@given(st.text(alphabet="0123456789 -.:/@+()abDE[]=\"'pwin\n", max_size=60))
def test_any_text_is_cut_only_where_entities_are(text: str) -> None:
    found = redact(text)
    at, kept = 0, []
    for entity in found.entities:
        assert at <= entity.start < entity.end <= len(text)
        kept += [text[at : entity.start], f"[{entity.kind}]"]
        at = entity.end
    assert found.text == "".join([*kept, text[at:]])


@given(st.integers(0, 10**15 - 1))
def test_luhn_catches_every_wrong_digit(number: int) -> None:
    body = f"{number:015d}"
    check = next(d for d in "0123456789" if passes_luhn(body + d))
    assert sum(passes_luhn(body + d) for d in "0123456789") == 1
    for i in range(15):
        changed = body[:i] + str((int(body[i]) + 1) % 10) + body[i + 1 :]
        assert not passes_luhn(changed + check)


@given(st.integers(10**14, 10**15 - 1))
def test_a_number_without_an_issuer_or_with_a_wrong_digit_is_no_card(number: int) -> None:
    body = f"4{number}"
    wrong = next(d for d in "0123456789" if not passes_luhn(body[:15] + d))
    text = f"order {body[:15]}{wrong} is late"
    assert redact(text).text == text
    assert ISSUERS.fullmatch("1" + body[:15]) is None


@given(st.sampled_from(["DE", "GB", "FR", "NO", "MT"]), st.randoms(use_true_random=False))
def test_ibans_are_known_by_their_checksum(country: str, dice: random.Random) -> None:
    length = {"DE": 22, "GB": 22, "FR": 27, "NO": 15, "MT": 31}[country]
    body = "".join(dice.choice("0123456789") for _ in range(length - 4))
    number = int("".join(str(int(c, 36)) for c in f"{body}{country}00"))
    right, wrong = 98 - number % 97, 1 + (98 - number % 97) % 97
    spaced = " ".join(f"{country}{right:02d}{body}"[i : i + 4] for i in range(0, length, 4))
    assert redact(f"to {spaced} now").text == "to [IBAN] now"
    assert "[IBAN]" not in redact(f"to {country}{wrong:02d}{body} now").text


LONG_RUNS = [*"a1:", "1 ", "a.", ":a", "+1 ", "a@", "x:y@", "0123-", "4111 ", "1.1.1.", "DE12 ", "sk-", "(at)"]
LONG_RUNS += ["http://", "://a:", "password: ", "call me at ", "eyJaaaaaaaaaa.", "-----BEGIN PRIVATE KEY-----"]


@pytest.mark.parametrize("piece", LONG_RUNS)
def test_time_is_linear_in_the_length(piece: str) -> None:
    text = piece * (60_000 // len(piece))
    start = time.process_time()
    redact(text)
    assert time.process_time() - start < 15  # what grew with the square would take minutes
