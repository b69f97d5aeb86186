"""What stands at the top of every chapter, made from its record, and the front page's gallery, for Sphinx.

Bibliography line, verdicts at a glance, the parameter table, the command that reruns the page, downloads and
how to cite. The executed notebook supplies verdicts and cost; nothing here is written by hand on a page.
"""

import html
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx

from fourfold.book import commands, gallery, ledger_page
from fourfold.judging import card, records, rule
from fourfold.judging.records import ROOT, Record
from fourfold.recorded import benchmark, evidence, executed, sources, sweep_table


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("doctree-read", furnish)
    app.connect("build-finished", copy_downloads)
    return {"parallel_read_safe": True}


def furnish(app: Sphinx, doctree: nodes.document) -> None:
    """Put the furniture under a chapter's title, its headline below its first words; say if it failed."""
    docname = app.env.docname
    if docname == "index":
        _hang_gallery(app, doctree)
    run = (executed.RUNS / docname.removeprefix("chapters/")).with_suffix(".ipynb")
    if docname.startswith("chapters/"):
        # The page shows its run's cost, which changes also where the outputs do not.
        app.env.note_dependency(str(run))
        record = _chapters().get(docname)
        title = next(iter(doctree.findall(nodes.title)))
        section = title.parent
        at = section.index(title) + 1
        first = section.first_child_matching_class(nodes.paragraph, start=at)
        under_it = at if first is None else first + 1
        section[under_it:under_it] = headline(doctree)
        section[at:at] = [*failure(run), *(pieces(record) if record else [])]


def _hang_gallery(app: Sphinx, doctree: nodes.document) -> None:
    """Fill the section on the papers, if the front page has one."""
    for section in doctree.findall(nodes.section):
        if "the-papers" in section["ids"]:
            for record in records.chapters():
                app.env.note_dependency(str(executed.of(record)))
            section.append(_raw(gallery.page()))


def headline(doctree: nodes.document) -> list[nodes.Node]:
    """What the cell with the tag ``headline`` shows, taken from its place."""
    found = []
    for cell in [box for box in doctree.findall(nodes.container) if "tag_headline" in box["classes"]]:
        for output in [box for box in cell.children if "cell_output" in box["classes"]]:
            cell.remove(output)
            found.append(nodes.container("", output, classes=["cell", "headline"]))
    return found


def failure(run: Path) -> list[nodes.Node]:
    """What a page says first if its run failed."""
    why = executed.failure(run)
    if why is None:
        return []
    return [
        _raw(
            "<div class='admonition error'><p class='admonition-title'>This page did not run to its end</p>"
            f"<p>{html.escape(why)}</p><p>What stands below the error was not computed.</p></div>"
        )
    ]


def copy_downloads(app: Sphinx, error: Exception | None) -> None:
    """Lay the files that the pages offer beside them, so that the links work with no network."""
    if error is None and app.builder.format == "html":
        folder = Path(app.outdir) / "downloads"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for record in _chapters().values():
            for source in files(record).values():
                shutil.copyfile(source, folder / source.name)
        for name, text in ledger_page.downloads(executed.RUNS / "ledger.ipynb").items():
            (folder / name).write_text(text, encoding="utf-8")
        for name, table in sweep_table.tables().items():
            shutil.copyfile(table, folder / name)
        hung = Path(app.outdir) / gallery.FOLDER
        hung.mkdir(exist_ok=True)
        for name, picture in gallery.pictures().items():
            (hung / name).write_bytes(picture)


def files(record: Record) -> dict[str, Path]:
    """What a reader can take away: what it is -> where it lies."""
    part, slug = record.part, record.slug
    return {
        "notebook": ROOT / "notebooks" / part / f"{slug}.ipynb",
        "module": ROOT / "src" / "fourfold" / part / f"{slug}.py",
        "tests": ROOT / "tests" / part / f"test_{slug}.py",
        "record": ROOT / "data" / "papers" / f"{slug}.yml",
    }


def pieces(record: Record) -> list[nodes.Node]:
    """The furniture of one chapter, as document nodes."""
    run, full = evidence.load(record.slug, "recorded"), evidence.load(record.slug, "full")
    # What it judged by other criteria than today's answers a question that nobody asks here any more.
    at_full = evidence.faces(record, full)
    timed = benchmark.load(record.slug)
    built = executed.of(record)
    failed = executed.failure(built)
    faces = [] if failed else executed.faces(built, "verdict")
    return [
        _raw(f"<div class='furniture'><p class='source'>{bibliography(record)}</p>"),
        *(
            []
            if failed
            else [_raw(badges(record, faces, "Verdicts") + evidence_box(record, faces, run, timed))]
        ),
        *([_raw(badges(record, at_full, f"Full run of {_about(full)}"))] if full and at_full else []),
        _raw("<details class='rerun'><summary>Run this page with your own parameters</summary>"),
        _raw(parameter_table(record)),
        _raw(
            f"<p>With the quick values the page took {max(1, round(executed.seconds(built)))} s on one core "
            f"when this book was built. {_full_cost(full)}</p>"
        ),
        _code(rerun_lines(record), "bash"),
        _raw(f"<p>{_links(record)}</p></details>"),
        _raw("<details><summary>Cite</summary>"),
        _code(citation(record), "bibtex"),
        _raw("</details></div>"),
    ]


def bibliography(record: Record) -> str:
    """Authors, year, title, venue, and links to the paper and to its authors' code, in HTML."""
    authors = ", ".join(record.authors)
    venue = f" {html.escape(record.venue)}." if record.venue else ""
    links = []
    if record.arxiv:
        links.append(_link(f"https://arxiv.org/abs/{record.arxiv}", f"arXiv:{record.arxiv}"))
    if record.doi:
        links.append(_link(f"https://doi.org/{record.doi}", f"doi:{record.doi}"))
    if record.code:
        licence = f" ({html.escape(record.code_licence)})" if record.code_licence else ""
        links.append(_link(record.code, "the authors' code") + licence)
    else:
        links.append("no code by the authors found")
    title = f"<cite>{html.escape(record.title)}</cite>"
    return f"{html.escape(authors)} ({record.year}). {title}.{venue} {' · '.join(links)}"


def badges(record: Record, verdicts: Iterable[Mapping[str, Any]], label: str) -> str:
    """A badge per judged claim, each a link to its card, and what they add up to."""
    words = {face["claim"]: face["verdict"] for face in verdicts}
    shown = []
    for claim in record.claims:
        if word := words.get(claim.id):
            shown.append(
                f"<li><a class='badge {card.css(word)}' href='#{record.slug}-{claim.id}' "
                f"title='{html.escape(claim.statement, quote=True)}'>{rule.SYMBOLS[word]} {claim.id}"
                f"<span class='visually-hidden'> {word}</span></a></li>"
            )
    counts = Counter(words.values())
    said = [f"{counts[word]} {word}" for word in (*rule.VERDICTS, rule.UNRECORDED) if counts[word]]
    for word in filter(counts.get, rule.CHECKED):
        one = counts[word] == 1
        said.append(f"{counts[word]} {'check' if one else 'checks'} that {word if one else word[:-1]}")
    return (
        f"<div class='badges'><p>{html.escape(label)}: {', '.join(said)}</p><ul>{''.join(shown)}</ul></div>"
    )


def evidence_box(
    record: Record,
    verdicts: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any] | None,
    timed: Mapping[str, Any] | None,
) -> str:
    """What the verdicts rest on, and how this copy's run compares with the recorded one. HTML.

    ``run`` and ``timed`` are the recorded run and the recorded benchmark, or None.
    """
    judged = [face for face in verdicts if face["verdict"] != rule.UNRECORDED]
    kinds = [record.claim(face["claim"]).evidence for face in judged]
    counts = [
        f"{sum(kind in claim for claim in kinds)} {words}"
        for kind, words in (
            ("exact", "with exact parts, computed in this build"),
            ("recorded", f"from recorded seeds ({_about(run)})" if run else "from recorded seeds"),
            ("timed", f"from recorded timings ({_when(timed)})" if timed else "from recorded timings"),
        )
        if any(kind in claim for claim in kinds)
    ]
    if missing := len(verdicts) - len(judged):
        counts.append(f"{missing} not recorded yet")
    found = [(face["claim"], f) for face in verdicts for f in face["findings"] if f["spot_check"]]
    amiss = [claim for claim, f in found if f["spot_check"]["agrees"] is False]
    text = f"<p>Claims: {'; '.join(counts)}.</p>"
    if not found:
        return f"<div class='evidence'>{text}</div>"
    compared = len([f for _, f in found if f["spot_check"]["agrees"] is not None])
    agreement = (
        f"disagrees with the record in {', '.join(dict.fromkeys(amiss))}"
        if amiss
        else f"agrees with the record in all {compared} quantities compared"
    )
    rows = "".join(
        f"<tr><th scope='row'>{claim} {html.escape(f['what'])}</th><td>{html.escape(f['shown'])}</td>"
        f"<td>{html.escape(_here(record, claim, f))}</td>"
        f"<td>{html.escape(f['spot_check']['words'].removeprefix('this run '))}</td></tr>"
        for claim, f in found
    )
    heads = "".join(f"<th scope='col'>{head}</th>" for head in ("Quantity", "Recorded", "This copy", "It"))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return (
        f"<div class='evidence{' amiss' if amiss else ''}'>{text}"
        f"<details><summary>This copy's run {agreement}</summary>"
        f"{ledger_page.scrolled('This run beside the record', table)}</details></div>"
    )


def _here(record: Record, claim_id: str, finding: Mapping[str, Any]) -> str:
    """What this copy's run measured, as a card would show it."""
    quantity = record.claim(claim_id).quantities[finding["role"]][finding["name"]]
    return rule.find(finding["name"], quantity, finding["here"]).shown


def parameter_table(record: Record) -> str:
    """Name, meaning, quick and full value, and range of every parameter."""
    rows = "".join(
        f"<tr><th scope='row'><code>{name}</code></th><td>{html.escape(spec.meaning)}</td>"
        f"<td><code>{html.escape(str(spec.quick))}</code></td>"
        f"<td><code>{html.escape(str(spec.full))}</code></td>"
        f"<td>{html.escape(spec.type)}: {html.escape(spec.allowed)}</td></tr>"
        for name, spec in record.parameters.items()
    )
    heads = "".join(
        f"<th scope='col'>{head}</th>" for head in ("Name", "Meaning", "Quick", "Full", "Allowed")
    )
    return ledger_page.scrolled(
        "Parameters of this page",
        f"<table class='parameters'><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>",
    )


def rerun_lines(record: Record) -> str:
    """The lines that rerun the page: quick with one parameter set by hand, doubted, and at full scale."""
    notebook = f"notebooks/{record.part}/{record.slug}.ipynb"
    name = "seed" if "seed" in record.parameters else next(iter(record.parameters))
    spec = record.parameters[name]
    value = 7 if name == "seed" else spec.quick
    given = f"-p {name} {value}" if not isinstance(value, list) else f"-y '{name}: {value}'"
    return "\n".join(
        [
            f"papermill {notebook} out.ipynb {given}",
            f"pytest --nbval {notebook}",
            f"make record NAME={record.slug}",
            f"make full NAME={record.slug}",
        ]
    )


def citation(record: Record) -> str:
    """BibTeX of the paper and of the book, whose entry is made from ``CITATION.cff``."""
    own = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    authors = " and ".join(f"{{{author['name']}}}" for author in own["authors"])
    fields = {
        "title": own["title"],
        "author": authors,
        "year": own["date-released"].year,
        "version": own["version"],
    }
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    software = f"@software{{fourfold,\n{body}\n}}"
    return software if record.companion else f"{commands.bibtex(record)}\n{software}"


def _when(benchmark: Mapping[str, Any]) -> str:
    return f"{benchmark['started'][:10]}, {benchmark['processor']}{_stale(benchmark)}"


def _about(run: Mapping[str, Any]) -> str:
    return f"{evidence.about(run)}{_stale(run)}"


def _stale(run: Mapping[str, Any]) -> str:
    changed = sources.listed(run["stale"])
    return f" (stale: {changed} changed since)" if changed else ""


def _full_cost(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return "No run with the full values is recorded yet."
    return f"The recorded run with the full values took {round(run['seconds'] / 60) or 1} min."


def _links(record: Record) -> str:
    taken = [
        f"<a href='../../downloads/{path.name}' download>{what}</a>" for what, path in files(record).items()
    ]
    text = f"Download: {', '.join(taken)}."
    # Known only where the book is built from a public repository, as GitHub's own builds are.
    if repository := os.environ.get("GITHUB_REPOSITORY"):
        notebook = f"notebooks/{record.part}/{record.slug}.ipynb"
        binder = f"https://mybinder.org/v2/gh/{repository}/HEAD?labpath={notebook}"
        colab = f"https://colab.research.google.com/github/{repository}/blob/HEAD/{notebook}"
        text += f" Open in {_link(binder, 'Binder')} or {_link(colab, 'Colab')}."
    return text


def _link(url: str, text: str) -> str:
    return f"<a class='external' href='{html.escape(url, quote=True)}'>{html.escape(text)}</a>"


def _raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def _code(text: str, language: str) -> nodes.literal_block:
    return nodes.literal_block(text, text, language=language)


def _chapters() -> dict[str, Record]:
    return {f"chapters/{record.part}/{record.slug}": record for record in records.chapters()}
