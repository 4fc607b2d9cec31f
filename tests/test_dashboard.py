"""The dashboard, in a real Chromium: it is live, it is used by keyboard alone, and it shows and runs nothing that it should not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

import cachesync
from cachesync import Cache, Policy, Settings
from cachesync.admin import Admin
from cachesync.core.settings import CoordinationSettings
from support.browser import SCHEMES, Browser, Page, Scheme
from support.nodes import LONG, until
from support.served import Served
from support.servers import Server

TOKEN: Final = "a token"
HOSTILE: Final = "<img src=x onerror=\"document.title='ran'\"><script>document.title='ran'</script>"
SECRET: Final = "+62-812-3456"
SIGNED_IN: Final = f"sessionStorage.setItem('cachesync.token', {TOKEN!r})"
BACKGROUND: Final = "getComputedStyle(document.body).backgroundColor"
BACKGROUNDS: Final = {"light": "rgb(244, 246, 248)", "dark": "rgb(12, 16, 20)"}
LIVE: Final = " && ".join(
    (
        "document.querySelector('#stream').textContent === 'live'",  # each is asked for by itself, and comes when it comes
        "document.querySelector('#policies tbody th')",
        "document.querySelector('[data-lever=\"policy.items=full\"]')",
    )
)
RECORDS: Final = "[...document.querySelectorAll('#records li .texts')].map(one => one.textContent)"
FOCUS: Final = "document.activeElement.id || document.activeElement.textContent"
TOLD: Final = "document.querySelector('#told').textContent"
POLICY_FILE: Final = """\
namespace = "{namespace}"

[redis]
url = "{url}"

[coordination]
budget = "20s"

[policy.items]
match = "item:*"
ttl = "1h"
"""


def authorise(scope: Any) -> str | None:
    """Who knows the token is an operator."""
    return "operator" if (b"authorization", f"Bearer {TOKEN}".encode()) in scope["headers"] else None


@pytest.fixture
def cache(server: Server, namespace: str) -> Iterator[Cache]:
    policies = [
        Policy(name="items", match="item:*", ttl="1h", stale_while_revalidate="1h"),
        Policy(name="people", match="people:*", ttl="1h", mask=["phone"]),
    ]
    patient = Settings(coordination=CoordinationSettings(budget=LONG, max_lag=LONG))  # a busy machine is no outage
    with Cache(patient, policies=policies, redis=server.url, namespace=namespace) as own:

        @own.cached("item:{name}", tags=["items"])
        def item(name: str) -> str:
            return name

        @own.cached("people:{phone}")
        def person(phone: str) -> str:
            return phone

        for name in ("one", "two", "one"):
            item(name)
        person(SECRET)
        yield own


@pytest.fixture
def site(cache: Cache, browser: Browser) -> Iterator[Served]:
    with Served(Admin(cache, authorise=authorise)) as own:
        yield own
        browser.forget()  # first: a server ends when its streams have ended


def opened(browser: Browser, site: Served, *, width: int = 1280, scheme: Scheme = "light") -> Page:
    """The dashboard as somebody sees it who has signed in, with its first figures."""
    page = browser.page(width=width, scheme=scheme)
    page.before_each(SIGNED_IN)
    page.go(site.url)
    page.until(LIVE)
    return page


def invalidate_elsewhere(cache: Cache, server: Server, folder: Path, *words: str) -> None:
    """``cachesync invalidate`` as a process of its own."""
    policies = folder / "cachesync.toml"
    policies.write_text(POLICY_FILE.format(namespace=cache.settings.namespace, url=server.url))
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(cachesync.__file__).parents[1])}
    command = [sys.executable, "-m", "cachesync", "invalidate", "--file", str(policies), *words]
    subprocess.run(command, env=environment, check=True, capture_output=True)


def walk(page: Page, until: str) -> list[str]:
    """Press Tab until the focus is on the element of this id or text; what was passed."""
    passed: list[str] = []
    while (here := page.run(FOCUS)) != until:
        passed.append(here)
        assert len(passed) < 60, f"Tab does not lead to {until}: {passed}"
        page.press("Tab")
    return passed


# --- how it looks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_says_nothing_wrong(browser: Browser, site: Served, width: int) -> None:
    """Nothing is wider than the window, the console is silent, and only its own server is asked; in light and dark."""
    page = opened(browser, site, width=width)
    page.until("document.querySelector('#traffic svg')")
    for scheme in SCHEMES:
        page.prefer(scheme)
        page.until(f"{BACKGROUND} === '{BACKGROUNDS[scheme]}'")
        assert page.run("document.documentElement.scrollWidth") <= width
    assert page.problems == []
    assert {url for url in page.requests if not url.startswith((site.url, "data:"))} == set()


def test_each_text_stands_out_from_what_is_behind_it(browser: Browser, site: Served) -> None:
    """By 4.5 to 1 at least (WCAG 2.2, 1.4.3), also where something is wrong; in light and dark."""
    page = opened(browser, site)
    page.until("document.querySelector('#traffic svg')")
    page.run("isPaused = true; $('told').className = 'result bad'; $('told').textContent = 'wrong'; $('status').className = 'badge bad'")
    for scheme in SCHEMES:
        page.prefer(scheme)
        page.until(f"{BACKGROUND} === '{BACKGROUNDS[scheme]}'")
        assert page.run(CONTRASTS) == []


CONTRASTS: Final = """
(() => {
  const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = colour => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const light = colour => [.2126, .7152, .0722].reduce((sum, part, at) => {
    const share = colour[at] / 255;
    return sum + part * (share <= .04045 ? share / 12.92 : ((share + .055) / 1.055) ** 2.4);
  }, 0);
  const behind = node => {
    const found = rgb(getComputedStyle(node).backgroundColor);
    return found[3] === 255 ? found : behind(node.parentElement);
  };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.checkVisibility() || node.closest("script, .unseen, .skip, :disabled")) continue;
    const style = getComputedStyle(node), svg = node.closest("svg");
    const [one, other] = [light(rgb(svg ? style.fill : style.color)), light(behind(node))];
    const contrast = (Math.max(one, other) + .05) / (Math.min(one, other) + .05);
    if (contrast < 4.5) bad.push(`${walker.currentNode.textContent.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return bad;
})()
"""


def test_a_visitor_chooses_the_theme_and_it_stays(browser: Browser, site: Served) -> None:
    """Against what the system prefers, and after the page was loaded anew."""
    page = opened(browser, site, scheme="light")
    page.press("t", "t")
    page.go(site.url)
    page.until(LIVE)
    assert page.run(BACKGROUND) == BACKGROUNDS["dark"]


def test_every_control_and_plot_has_a_name(browser: Browser, site: Served) -> None:
    """Whoever hears the page instead of seeing it knows what each is for."""
    page = opened(browser, site)
    page.until("document.querySelector('#traffic svg')")
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "checkbox", "radio", "radiogroup", "image", "img", "log", "table", "region"}
    found = [node for node in nodes if node.get("role", {}).get("value") in roles]
    assert len(found) > 20
    assert [node["role"]["value"] for node in found if not node.get("name", {}).get("value")] == []


# --- by keyboard -----------------------------------------------------------------------------------------------------------------


def test_by_keyboard_an_invalidation_is_tried_and_then_done(browser: Browser, site: Served, cache: Cache) -> None:
    """A dry run changes nothing and says what would happen; and the focus can always be seen."""
    page = opened(browser, site)
    before = cache.stamp()
    page.press("i")
    page.write("item:one")
    page.press("Tab")
    page.write("items")
    walk(page, "dry")
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Enter")
    page.until(f"{TOLD}.includes('Dry run')")
    assert "item:one" in page.run(TOLD) and "items" in page.run(TOLD)
    assert cache.stamp() == before and cache.peek("item:one") is not None
    walk(page, "do")
    page.press("Enter")
    page.until(f"{TOLD}.includes('Announced')")
    assert cache.peek("item:one") is None and cache.peek("item:two") is None
    assert page.problems == []


def test_nothing_named_is_nothing_sent(browser: Browser, site: Served, cache: Cache) -> None:
    """And it is said."""
    page = opened(browser, site)
    page.run("$('do').click()")
    assert "first" in page.until(TOLD)
    assert not any(url.endswith("/invalidate") for url in page.requests)


def test_everything_is_invalidated_only_after_a_question(browser: Browser, site: Served, cache: Cache) -> None:
    """Escape leaves it."""
    page = opened(browser, site)
    page.press("i")
    page.write("*")
    page.run("$('do').click()")
    page.until("$('confirm').open")
    page.press("Escape")
    page.until("!$('confirm').open")
    assert not any(url.endswith("/invalidate") for url in page.requests)


def test_by_keyboard_a_switch_is_thrown_after_a_question(browser: Browser, site: Served, cache: Cache) -> None:
    """The first answer offered is to leave it; and the page shows what is switched."""
    page = opened(browser, site)
    page.until("document.querySelector('[data-lever=\"policy.people=off\"]')")
    page.press("s", "ArrowRight", "Enter")
    page.until("$('confirm').open")
    assert page.run(FOCUS) == "Leave it"
    page.press("Enter")
    page.until("!$('confirm').open")
    assert cache.switches().everywhere == {}
    page.press("s", "ArrowRight", "Enter")
    page.until("$('confirm').open")
    page.press("Tab", "Enter")
    page.until("document.querySelector('[data-lever=\"all=ttl\"]').getAttribute('aria-checked') === 'true'")
    assert cache.switches().everywhere == {"all": "ttl"}
    page.until("document.querySelector('#reasons').textContent.includes('all=ttl')")


def test_a_question_is_answered_by_its_own_buttons(browser: Browser, site: Served) -> None:
    """Also where another one was left a moment before: the browser tells of that late."""
    page = opened(browser, site)
    asked = """
        (async () => {
          confirmed("One?", "", "Do it");
          $("confirm").close();
          const other = confirmed("Another?", "", "Do it");
          await new Promise(told => $("confirm").addEventListener("close", told, {once: true}));
          $("confirm-yes").click();
          return other;
        })()
    """
    assert page.run(asked) is True


def test_the_focus_stays_where_it_is_while_switches_change(browser: Browser, site: Served, cache: Cache) -> None:
    """Somebody else may throw one in the midst of it."""
    page = opened(browser, site)
    page.press("s", "ArrowRight")
    cache.switch("local", "off")
    page.until("document.querySelector('[data-lever=\"local=off\"]').getAttribute('aria-checked') === 'true'")
    assert page.run("document.activeElement.dataset.lever") == "all=ttl"


def test_tab_goes_through_the_page_from_top_to_bottom(browser: Browser, site: Served) -> None:
    """First comes the way past the header; then everything in the order in which it stands."""
    page = opened(browser, site)
    page.press("Tab")
    assert page.run(FOCUS) == "Skip to the figures"
    passed = walk(page, "key")
    assert [name for name in passed if name in {"pause", "theme", "keys", "records", "patterns", "tags", "soft", "dry", "do"}] == [
        *("pause", "theme", "keys", "records", "patterns", "tags", "soft", "dry", "do")
    ]


def test_shortcuts_are_told_and_can_be_turned_off(browser: Browser, site: Served) -> None:
    """One key is a shortcut only as long as somebody wants it (WCAG 2.2, 2.1.4), and never while something is written."""
    page = opened(browser, site)
    page.press("?")
    page.until("$('help').open")
    page.run("$('single').click()")
    page.press("Escape")
    page.until("!$('help').open")
    page.press("i")
    assert page.run(FOCUS) != "patterns"
    page.run("$('single').click(); $('patterns').focus()")
    page.press("k", "t")
    assert page.run("$('patterns').value") == "kt"


# --- live ------------------------------------------------------------------------------------------------------------------------


def test_what_another_process_invalidates_is_shown(browser: Browser, site: Served, cache: Cache, server: Server, tmp_path: Path) -> None:
    """Because the stream of events tells of it, without a reload; and a key that is looked at is seen to be gone."""
    page = opened(browser, site)
    page.run("tick = () => {}, 0")
    page.press("k")
    page.write("item:one")
    page.press("Enter")
    page.until("document.querySelector('#age')")
    invalidate_elsewhere(cache, server, tmp_path, "item:one")
    page.until(f"{RECORDS}.includes('item:one')")
    page.until("document.querySelector('#entry').textContent.includes('not cached')")
    assert page.problems == []


def test_what_the_stream_does_not_tell_is_found_by_the_next_look(browser: Browser, site: Served, cache: Cache) -> None:
    """A visitor may look at more than the stream may tell."""
    page = opened(browser, site)
    page.run("hear = () => {}, 0")
    cache.invalidate("item:two")
    page.until(f"{RECORDS}.includes('item:two')")


def test_it_comes_back_after_the_server(browser: Browser, site: Served, cache: Cache) -> None:
    """What happened meanwhile is in the log that it shows then."""
    page = opened(browser, site)
    site.stop()
    page.until("document.querySelector('#stream').textContent === 'reconnecting'")
    cache.invalidate("item:two")
    site.start()
    page.until("document.querySelector('#stream').textContent === 'live'")
    page.until(f"{RECORDS}.includes('item:two')")


def test_a_paused_page_stands_still_until_it_goes_on(browser: Browser, site: Served, cache: Cache) -> None:
    """What moves by itself can be stopped (WCAG 2.2, 2.2.2)."""
    page = opened(browser, site)
    page.press("p")
    page.until("reading === null")
    cache.invalidate("item:two")
    assert page.run("hear('event: inv'), reading === null")
    page.press("p")
    page.until(f"{RECORDS}.includes('item:two')")


def test_a_key_is_shown_with_its_stamp_and_its_age(browser: Browser, site: Served, cache: Cache) -> None:
    """The age grows while it is looked at, beside the lifetime that the policy gives; stale is said."""
    page = opened(browser, site)
    page.run("$('key').value = 'item:one'; $('look').requestSubmit()")
    page.until("document.querySelector('#age')")
    entry = cache.peek("item:one")
    assert entry is not None
    told = page.run("$('entry').innerText")
    assert str(entry.stamp) in told and entry.etag in told and "of 60 min" in told and "fresh" in told
    assert page.run("age.then -= 3 * 3_600_000, showAge(), $('age').textContent") == "3 h"
    cache.invalidate("item:one", soft=True)
    page.until("$('entry').innerText.includes('stale')")


def test_figures_are_those_of_the_cache(browser: Browser, site: Served, cache: Cache) -> None:
    """By policy: what the table says is what `stats` says."""
    page = opened(browser, site)
    cells = "[...row.querySelectorAll('th, .number')].map(one => one.textContent)"
    rows = page.run(f"[...document.querySelectorAll('#policies tbody tr')].map(row => {cells})")
    stats = cache.stats().policies["items"]
    assert stats.hit_rate == pytest.approx(1 / 3)
    assert ["items", "33.3 %", "3"] in rows
    label = page.run("document.querySelector('#policies .bar').getAttribute('aria-label')")
    assert label == "33.3 % local memory, 66.7 % computed"


# --- what it must not do ----------------------------------------------------------------------------------------------------------


def test_a_hostile_name_is_text(browser: Browser, site: Served, cache: Cache) -> None:
    """Of a key, a pattern and a tag, in the log, the answers and what is looked at: nothing in it runs, or becomes an element."""
    page = opened(browser, site)
    elements = page.run("document.querySelectorAll('img, main script').length")
    cache.invalidate(f"item:{HOSTILE}", tags=[HOSTILE])
    page.until(f"{RECORDS}.some(text => text.includes('onerror'))")
    page.run(f"$('patterns').value = $('tags').value = $('key').value = 'item:' + {HOSTILE!r}; $('dry').click()")
    page.until(f"{TOLD}.includes('onerror')")
    page.run("$('look').requestSubmit()")
    page.until("document.querySelector('#entry').textContent.includes('onerror')")
    assert page.run("document.querySelectorAll('img, main script').length") == elements == 0
    page.until(f"document.title === '{cache.settings.namespace} – cachesync'")
    assert page.problems == []


def test_the_browser_would_not_run_it_either(browser: Browser, site: Served) -> None:
    """The policy that comes with the page forbids markup made of texts, and every script but its own."""
    page = opened(browser, site)
    refused = "(() => { try { document.body.innerHTML = '<b>'; return 'done'; } catch (error) { return error.name; } })()"
    assert page.run(refused) == "TypeError"
    page.run("document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:1/'})); 0")
    until(lambda: any("Content Security Policy" in problem for problem in page.problems), "the console tells of it")


def test_what_is_masked_is_not_on_the_page(browser: Browser, site: Served, cache: Cache) -> None:
    """Not in the log, not in an answer, and not where the key itself was looked at."""
    page = opened(browser, site)
    cache.invalidate(f"people:{SECRET}")
    page.until(f"{RECORDS}.some(text => text.includes('people:***'))")
    page.run(f"$('key').value = 'people:{SECRET}'; $('look').requestSubmit()")
    page.until("document.querySelector('#entry').textContent.includes('people:***')")
    assert SECRET not in page.run("document.body.innerText")


def test_a_visitor_is_asked_who_it_is(browser: Browser, site: Served) -> None:
    """The token is kept for the tab alone, and a wrong one is asked for again."""
    page = browser.page()
    page.go(site.url)
    for token in ("wrong", TOKEN):
        page.until("$('sign-in').open")
        page.write(token)
        page.press("Enter")
    page.until(LIVE)
    assert page.run("[sessionStorage.length, Object.values(localStorage).join()]") == [1, "auto"]
    assert TOKEN not in "".join(page.requests) and not page.run("document.cookie")


def test_a_visitor_who_does_not_say_is_left_alone(browser: Browser, site: Served) -> None:
    """The question is not repeated, the server is not asked again, and there is a way back."""
    page = browser.page()
    page.go(site.url)
    page.until("$('sign-in').open")
    page.press("Escape")
    page.until("!$('sign-in').open")
    assert page.run("[$('status').textContent, $('leave').textContent]") == ["not signed in", "Sign in"]
    asked = [url for url in page.requests if url.endswith("/stats")]
    page.run("tick()")
    assert [url for url in page.requests if url.endswith("/stats")] == asked
    page.run("$('leave').click()")
    page.until("$('sign-in').open")


def test_where_nobody_may_enter_there_is_no_page(cache: Cache) -> None:
    """Without an authoriser the app says what to do; with one, the page comes before anybody has said who it is."""
    with Served(Admin(cache)) as site, pytest.raises(HTTPError) as refused:
        urlopen(site.url)
    with refused.value as answer:
        assert answer.status == 403 and b"authorise=..." in answer.read()


def test_the_page_needs_no_other_file_and_no_other_host() -> None:
    """One file, whose script makes no markup of texts; the only addresses in it are names of XML namespaces."""
    text = (files("cachesync") / "browser" / "dashboard.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^'\"\s)]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|setTimeout\(['\"]", text) == []
    assert re.findall(r"<(?:link|script|img|iframe)\b[^>]*\b(?:src|href)=\"(?!data:)", text) == []
    assert re.findall(r"\s(?:style|on\w+)=\"", text) == []


def test_its_policy_names_what_it_may_do_and_nothing_else(site: Served) -> None:
    """Whatever is not named is forbidden."""
    with urlopen(site.url) as answer:
        policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert all("unsafe" not in value and "http" not in value for value in policy.values())
