# SPDX-License-Identifier: MIT
"""Numbers of sampled rows, as an accelerator sends them: 256 rows of 8,192 in each capture, all in every 16th.
The page shows how exact they are, and what is of the rows taken; the other layer has all its rows."""
import numpy as np
import pytest

from conftest import module_text
from harness import Trainer, wait_until

from row_sums import POWERS, of_entropies

HEADS, T, ROWS, STEPS, WINDOW, WHOLE = 4, 8192, 256, 37, 16, 16
SAMPLED, EXACT = 0, 1


class Course:
    """What was sent: entropies of head 1 by step."""

    def __init__(self, open_site):
        self.site = open_site("window.unit=step", f"window.length={WINDOW}", f"window.every={WINDOW}", "window.timeout=1h")
        self.rng = np.random.default_rng(5)
        self.trainer = Trainer(self.site.daemon, "gpt")
        self.entropy = []
        for step in range(STEPS):
            self.send(EXACT, step)
            self.entropy.append(self.send(SAMPLED, step))
        windows = lambda: [one["window"]["last"] for one in self.site.api("summary", job="gpt", or_null=1) or []]
        wait_until(lambda: windows() == [31, 31], "the windows")
        wait_until(lambda: self.site.daemon.stats()["history"]["waiting"] == 0, "the history to have them")

    def send(self, layer, step, trainer=None):
        trainer = trainer or self.trainer
        whole = layer == EXACT or step % WHOLE == 0
        queries = T if whole and layer == SAMPLED else ROWS
        entropy = self.rng.normal(2.3, 0.4, (1, HEADS, queries))
        keys = T if layer == SAMPLED else ROWS
        more = {"finite": keys, "shift": 0.75, "logits": 0, "logit_squares": 1, "smallest": -12.5}
        if whole:
            more.update({name: np.exp(entropy) for name in POWERS})  # of equal weights
        rows = of_entropies(entropy, keys, max_logit=entropy + 8, queries=queries if layer == EXACT else T, causal=True, more=more)
        trainer.rows(rows, step=step, layer=layer)
        return entropy[0, 1]


    def importance(self, last):
        """Of head 1 in a window, as the page shows it: that of the message that has all rows."""
        answer = self.site.api("history", job="gpt", layer=SAMPLED, head=1, metric="importance", statistics="mean,count", to=last)
        assert answer["windows"]["last"][-1] == last and answer["values"]["count"][-1] == 1
        return f"{answer['values']['mean'][-1]:.4g}"


@pytest.fixture(scope="module")
def course(module_site):
    return Course(module_site)


def of_window(course, last):
    """The mean of head 1 in a window, and its standard error, as the page shows them."""
    rows = np.concatenate(course.entropy[last + 1 - WINDOW:last + 1])
    return shown(rows.mean()), float(f"{rows.std(ddof=1) / np.sqrt(len(rows)):.2g}")


def cells(page, row):
    """The number of a metric in the table of numbers, what it is, and the title of the number."""
    return page.js("""const row = [...document.querySelectorAll('.numbers tbody tr')].find((e) => e.cells[0].textContent === arguments[0]);
                      return row && [row.cells[1].textContent, row.cells[3].textContent, row.cells[1].title]""", row)


def shown(number):
    return float(f"{number:.4g}")


def test_a_head_of_sampled_rows_has_standard_errors(course, page):
    page.open(course.site, f"#/head?job=gpt&layer={SAMPLED}&head=1&metric=entropy").ready()
    wait_until(lambda: "±" in page.facts().get("entropy", ""), "the last window's deviation")
    mean, error = map(float, page.facts()["entropy"].split(" ± "))
    window = np.concatenate(course.entropy[16:32])
    assert mean == shown(course.entropy[-1].mean()) and error == float(f"{window.std(ddof=1) / np.sqrt(ROWS):.2g}")
    assert 0.02 < error < 0.03 and abs(mean - 2.3) < 4 * error
    assert page.facts()["rows"] == "256 of about 8,192 query rows"
    assert page.facts()["importance"] == f"{course.importance(31)} (last window)" and 0.1 < float(course.importance(31)) < 0.4
    taken = "256 of about 8,192 query rows"
    assert cells(page, "entropy") == [page.facts()["entropy"], "entropy of a query's weights",
                                      f"±: standard error, at most, by the deviation in the last window: {taken}"]
    assert cells(page, "max_abs_logit") == ["12.5", "largest logit by magnitude, of the rows taken", f"of the rows taken: {taken}"]
    assert cells(page, "mean_logit") == ["0.75", "mean logit", f"estimated: {taken}"]
    assert cells(page, "importance") == [course.importance(31), "variance and entropy score, over the heads of a layer, last window",
                                         "mean of the last window: the newest message, of sampled rows, has none"]
    assert "min to max of the rows taken" in page.text(".figure.wide")
    assert page.complaints() == []


def test_a_layer_of_sampled_rows_has_standard_errors_in_its_table(course, page):
    page.open(course.site, f"#/layer?job=gpt&layer={SAMPLED}").ready()
    wait_until(lambda: "±" in page.text("table"), "the last window's deviation")
    head = page.texts("thead th")
    row = dict(zip(head, page.texts("tbody tr:nth-child(2) td")))
    assert row["max_logit"].split(" ± ")[0] == str(shown(course.entropy[-1].mean() + 8)) and "±" in row["entropy_normalized"]
    assert row["importance"] == course.importance(31)
    unsorted = sorted(page.texts("tbody tr"))
    for column in ("entropy_normalized", "max_logit", "max_logit"):
        page.js("[...document.querySelectorAll('th button')].find((e) => e.textContent === arguments[0]).click()", column)
        assert page.texts("th[aria-sort]") == [column]
        assert sorted(page.texts("tbody tr")) == unsorted, "sorted rows keep their errors"
    assert page.js("return document.querySelector('tbody tr td:last-child').title").startswith("mean of the last window")
    assert any(text.endswith("step 36, 256 of about 8,192 query rows") for text in page.texts(".figure > header .sub"))
    assert "by their weights, mean of the last window" in page.texts(".figure > header .sub")
    for width, dark in ((1440, False), (390, True)):
        page.open(course.site, f"#/layer?job=gpt&layer={SAMPLED}", width=width, dark=dark).ready()
        wait_until(lambda: "±" in page.text("table"), "the table")
        assert page.fits()
        page.js("document.querySelector('table').scrollIntoView()")
        page.screenshot(f"sampled-rows-layer-{width}-{'dark' if dark else 'light'}")


def test_the_chart_of_a_layer_says_the_largest_error_of_its_heads(course, page):
    for layer in SAMPLED, EXACT:
        page.open(course.site, f"#/layer?job=gpt&layer={layer}&metric=entropy").ready()
        page.keys(".figure.series svg", "Home")
        said = page.text("#tooltip")
        assert said.startswith("step 15: head 0 2.")
        assert ("±" in said) == (layer == SAMPLED)
        if layer == SAMPLED:
            stat = course.site.api("history", job="gpt", layer=layer, metric="entropy", to=15)["values"]
            errors = np.array(stat["std"]) / np.sqrt(stat["count"])
            assert errors.shape == (HEADS, 1) and said.endswith(f"each head and their mean ± {float(f'{errors.max():.2g}'):g} (standard error, at most)")
            page.screenshot("sampled-rows-layer-chart")
    page.open(course.site, f"#/layer?job=gpt&layer={SAMPLED}&metric=max_abs_logit").ready()  # an extreme of the rows taken
    page.keys(".figure.series svg", "Home")
    assert page.text("#tooltip").startswith("step 15: ") and "±" not in page.text("#tooltip")


PAST = f"{8192 + 15 * ROWS:,} of about {16 * T:,} query rows"


def test_a_past_window_of_sampled_rows_has_standard_errors_in_its_table(course, page):
    page.open(course.site, f"#/layer?job=gpt&layer={SAMPLED}&at=step15").ready()
    wait_until(lambda: "±" in page.text("table"), "the deviations of the window")
    name, *_ = page.texts("thead th button")
    column = page.texts("thead th").index
    before = page.texts("tbody tr:nth-child(2) td")
    assert name == "entropy_normalized" and all("±" in text for text in page.texts("tbody td:nth-child(3)"))
    error = of_window(course, 15)[1]
    assert float(before[column("max_logit")].split(" ± ")[1]) == error, "it is entropy + 8"
    assert before[column("importance")] == course.importance(15)
    titles = page.js("return [...document.querySelectorAll('tbody tr:nth-child(2) td')].map((e) => e.title)")
    assert [titles[column(name)] for name in ("max_logit", "importance")] == [f"±: standard error, at most: {PAST}", ""]
    assert any(text == f"window of step 15, {PAST}" for text in page.texts(".figure > header .sub"))
    page.click("thead th button")
    assert sorted(page.texts("tbody td:nth-child(1)")) == ["0", "1", "2", "3"] and all("±" in text for text in page.texts("tbody td:nth-child(3)"))
    page.js("document.querySelector('table').scrollIntoView()")
    assert page.complaints() == []


def test_a_past_window_of_a_head_has_standard_errors_in_its_chart_and_numbers(course, page):
    page.open(course.site, f"#/head?job=gpt&layer={SAMPLED}&head=1&metric=entropy&at=step31").ready()
    wait_until(lambda: "±" in page.facts().get("entropy", ""), "the deviations of the window")
    assert tuple(map(float, page.facts()["entropy"].split(" ± "))) == of_window(course, 31) and page.facts()["rows"] == PAST
    assert cells(page, "max_abs_logit")[1:] == ["largest logit by magnitude, of the rows taken", f"of the rows taken: {PAST}"]
    page.keys(".figure.wide svg", "Home")
    mean, error = of_window(course, 15)
    said = page.text("#tooltip")
    assert said.startswith(f"step 15: mean {mean:g}, ") and f"mean ± {error:g} (standard error, at most)" in said
    assert page.complaints() == []


def test_of_a_window_whose_state_is_gone_the_number_of_rows_is_told(page):
    """Thinned out (history.states): whether the rows are a sample is not stored any more."""
    gone = {"past": True, "heads": {"entropy": [2.5]}, "sample": {"heads": {"entropy": {"std": [0.4], "count": [4096]}}}}
    said = page.js(f"return ({module_text('run_text.js')}).newestText(arguments[0], null, {{ name: 'entropy', per: 'row' }}, 0)", gone)
    assert said == {"text": "2.5", "about": "", "title": "of 4,096 rows; it is not known any more whether these are all"}


@pytest.mark.parametrize("at", ["", "&at=step31"])
@pytest.mark.parametrize("view", ["head", "layer"])
def test_a_layer_of_all_rows_looks_as_before(course, page, view, at):
    page.open(course.site, f"#/{view}?job=gpt&layer={EXACT}&head=1&metric=entropy{at}").ready()
    wait_until(lambda: "12.5" in page.text("main") if view == "head" else page.texts("tbody td"), "the numbers")
    assert not any(word in page.text("main") for word in ("±", "rows taken", "query rows", "last window"))


def test_differences_between_runs_of_sampled_rows_have_standard_errors(course, page):
    trainer = Trainer(course.site.daemon, "other")
    for step in range(WINDOW + 1):
        course.send(SAMPLED, step, trainer)
    trainer.event("bye")
    wait_until(lambda: course.site.api("summary", job="other", or_null=1), "the window")
    wait_until(lambda: course.site.daemon.stats()["history"]["waiting"] == 0, "the history to have it")
    a, b = (course.site.api("runs", job=job)["runs"][0]["run"] for job in ("gpt", "other"))
    page.open(course.site, f"#/runs?job=gpt&a=gpt/{a}&b=other/{b}").ready()
    found = course.site.api("compare", job="gpt", job_b="other")["heads"][0]
    name, most = max(found["metrics"].items(), key=lambda one: one[1]["js"])
    deviation = course.site.api("summary", job="other")[0]["heads"][name]["std"][found["head"]]
    head = page.texts("thead th")
    said = dict(zip(head, page.texts("tbody tr:first-child td")))["B − A"]
    delta, error = said.split(" ± ")
    assert float(delta) == pytest.approx(most["delta"], rel=1e-2) and float(error) == float(f"{most['delta_error']:.2g}")
    assert 0.9 * deviation / np.sqrt(2 * 8192 + 30 * ROWS) < float(error) < 0.05 * deviation
    assert page.fits() and page.complaints() == []


def test_after_a_restart_the_last_window_has_standard_errors(course, page):
    assert course.site.daemon.stop() == 0
    course.site.daemon.start()
    page.open(course.site, f"#/layer?job=gpt&layer={SAMPLED}").ready()
    wait_until(lambda: "±" in page.text("table"), "the deviations of the window")
    assert any(text.startswith("last window, step 47, ") and text.endswith("query rows") for text in page.texts(".figure > header .sub"))
    assert all(len(text.split(" ± ")) == 2 for text in page.texts("tbody td:nth-child(3)"))
