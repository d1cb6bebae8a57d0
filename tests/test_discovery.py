"""Which sinks are installed: told from what packages declare, with none of them imported and none able to hide others."""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlxhub_core import discovery
from mlxhub_core.discovery import Offer, normalised, scan

Install = Callable[..., Path]


@pytest.fixture(autouse=True)
def fresh_scan() -> Iterator[None]:
    scan.cache_clear()
    yield
    scan.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of installed packages, ahead of the real one."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(directory)
    return directory


def install(
    site: Path, name: str, points: str | bytes | None, *, version: str = "1.0", metadata: str | bytes | None = "good"
) -> Path:
    """Put a package there that declares entry points; returns its dist-info."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    if metadata == "good":
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    for file, content in (("entry_points.txt", points), ("METADATA", metadata)):
        if content is not None:
            (info / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    return info


def found(*types: str) -> list[Offer]:
    """The offers of these types, or of all that are not ours."""
    return [
        offer
        for offer in scan().offers
        if offer.type in types or not (types or offer.distribution.startswith("mlxhub"))
    ]


def test_loguru_is_found_by_what_our_own_package_declares() -> None:
    (offer,) = found("loguru")
    assert (offer.distribution, offer.value) == ("mlxhub-core", "mlxhub_core.sinks.loguru_sink:LoguruSink")


def test_without_what_packages_declare_nothing_is_known_not_even_loguru(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert scan().offers == ()


def test_a_package_offers_each_sink_type_that_it_declares(site: Path) -> None:
    install(
        site,
        "acme-sinks",
        "[console_scripts]\nacme = acme:main\n\n[mlxhub.sinks]\nkafka = acme.kafka:KafkaSink\n  mqtt   =   acme:Mqtt\n",
        version="2.1rc1",
    )
    assert found() == [
        Offer("kafka", "acme-sinks", "2.1rc1", "acme.kafka:KafkaSink"),
        Offer("mqtt", "acme-sinks", "2.1rc1", "acme:Mqtt"),
    ]


@pytest.mark.parametrize(
    "points",
    [
        None,
        "",
        "[console_scripts]\nkafka = acme:main\n",
        "[mlxhub.sinks.later]\nkafka = acme:Kafka\n",
        "[other]\nkafka = mlxhub.sinks:Kafka\n",
        "mlxhub.sinks\n = = =\n[",
        "\0\0\0mlxhub.sinks\0",
    ],
    ids=[
        "no-file",
        "empty",
        "another-group",
        "a-group-that-begins-like-ours",
        "our-group-as-a-value",
        "our-group-in-no-brackets",
        "nul-characters",
    ],
)
def test_a_package_that_declares_no_sink_offers_none(site: Path, points: str | None) -> None:
    install(site, "acme", points)
    assert found() == []
    assert scan().ruins == ()


@pytest.mark.parametrize("points", [None, "[console_scripts]\nkafka = acme:main\n"], ids=["no-file", "another-group"])
def test_of_a_package_without_sinks_not_even_the_name_is_read(site: Path, points: str | None) -> None:
    install(site, "acme", points, metadata=b"\xff would be told if it were read")
    assert scan().ruins == ()


@pytest.mark.parametrize(
    ("points", "metadata"),
    [
        ("[mlxhub.sinks]\nthis line is junk\n", "good"),
        (b"[mlxhub.sinks]\n\xff\xfe = a:B\n", "good"),
        (b"\xff\xfe of whatever package", "good"),
        ("[mlxhub.sinks]\nruin = a:B\n", None),
        ("[mlxhub.sinks]\nruin = a:B\n", ""),
        ("[mlxhub.sinks]\nruin = a:B\n", b"\xff\xfe\x00"),
        ("[mlxhub.sinks]\nruin = a:B\n", "Metadata-Version: 2.1\nName: ruin\n"),
        ("[mlxhub.sinks]\nruin = a:B\n", "Metadata-Version: 2.1\nVersion: 1.0\n"),
    ],
    ids=[
        "a-junk-line",
        "not-utf-8",
        "not-even-ours",
        "no-metadata",
        "empty-metadata",
        "metadata-that-is-not-utf-8",
        "no-version",
        "no-name",
    ],
)
@pytest.mark.parametrize("ruin_comes_first", [True, False], ids=["before-the-good-one", "after-it"])
def test_a_package_in_ruins_hides_no_other_and_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    points: str | bytes,
    metadata: str | bytes | None,
    *,
    ruin_comes_first: bool,
) -> None:
    names = ["ruin", "good"] if ruin_comes_first else ["good", "ruin"]
    for name in reversed(names):
        (tmp_path / name).mkdir()
        monkeypatch.syspath_prepend(tmp_path / name)
    info = install(tmp_path / "ruin", "ruin", points, metadata=metadata)
    install(tmp_path / "good", "good", "[mlxhub.sinks]\nkafka = acme:Kafka\n")
    assert found() == [Offer("kafka", "good", "1.0", "acme:Kafka")]
    assert found("loguru")
    (ruin,) = scan().ruins
    assert re.fullmatch(
        rf"{re.escape(str(info))} cannot be read \(\w+\); install that package again, or remove it", str(ruin)
    )


def test_directories_where_files_should_be_hide_nothing(site: Path) -> None:
    (site / "broken-1.0.dist-info" / "entry_points.txt").mkdir(parents=True)
    (site / "plain.dist-info").write_text("a file where a directory should be")
    install(site, "good", "[mlxhub.sinks]\nkafka = acme:Kafka\n")
    assert [offer.type for offer in found()] == ["kafka"]


def test_a_directory_that_is_reached_by_two_ways_counts_once(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "acme", "[mlxhub.sinks]\nkafka = acme:Kafka\n")
    (tmp_path / "lib64").symlink_to(site)
    monkeypatch.syspath_prepend(tmp_path / "lib64")
    assert len(found()) == 1


def test_of_two_versions_the_first_on_the_path_counts_and_the_other_adds_no_ghosts(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "acme-sinks", "[mlxhub.sinks]\nkafka = old:Kafka\nghost = old:Ghost\n", version="1.0")
    newer = tmp_path / "newer"
    newer.mkdir()
    monkeypatch.syspath_prepend(newer)
    # The same package by another spelling, as an older build backend has it.
    install(newer, "Acme_Sinks", "[mlxhub.sinks]\nkafka = new:Kafka\n", version="2.0")
    assert found() == [Offer("kafka", "Acme_Sinks", "2.0", "new:Kafka")]


def test_a_version_without_sinks_hides_an_older_one_that_had_some(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "acme", "[mlxhub.sinks]\nkafka = acme:Kafka\n", version="1.0")
    (tmp_path / "newer").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "newer")
    install(tmp_path / "newer", "acme", None, version="2.0")
    assert found() == []


@pytest.mark.parametrize("entry", ["", ".", "{here}", "{here}/../site", "{link}"])
def test_the_current_directory_offers_nothing_however_it_is_written(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    (tmp_path / "link").symlink_to(site)
    install(site, "acme", "[mlxhub.sinks]\nkafka = acme:Kafka\n")
    assert len(found()) == 1, "from elsewhere"
    scan.cache_clear()
    monkeypatch.setattr(sys, "path", [entry.format(here=site, link=tmp_path / "link"), *sys.path[1:]])
    monkeypatch.chdir(site)
    assert found() == []
    assert found("loguru")


def test_the_current_directory_counts_if_it_is_where_packages_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = scan().offers
    scan.cache_clear()
    monkeypatch.chdir(sysconfig.get_path("purelib"))
    assert scan().offers == everything


def test_a_current_directory_that_was_deleted_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert found("loguru")


def test_a_stale_egg_info_beside_the_package_adds_no_ghosts(site: Path) -> None:
    install(site, "acme", "[mlxhub.sinks]\nkafka = acme:Kafka\n")
    stale = site.parent / "checkout" / "acme.egg-info"
    stale.mkdir(parents=True)
    (stale / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 0.1\n")
    (stale / "entry_points.txt").write_text("[mlxhub.sinks]\nkafka = stale:Kafka\nghost = stale:Ghost\n")
    sys.path.append(str(stale.parent))
    try:
        assert found() == [Offer("kafka", "acme", "1.0", "acme:Kafka")]
    finally:
        sys.path.remove(str(stale.parent))


def test_two_packages_with_one_type_are_both_told_in_the_order_of_their_names(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "first")
    install(tmp_path / "first", "b-sinks", "[mlxhub.sinks]\nkafka = b:Kafka\n")
    install(site, "a-sinks", "[mlxhub.sinks]\nkafka = a:Kafka\n")
    assert [offer.distribution for offer in found("kafka")] == ["a-sinks", "b-sinks"]


def test_a_package_that_declares_a_type_twice_offers_the_first(site: Path) -> None:
    install(site, "acme", "[mlxhub.sinks]\nkafka = acme:First\nkafka = acme:Second\n")
    assert [offer.value for offer in found()] == ["acme:First"]


def test_to_list_what_is_installed_imports_nothing(site: Path) -> None:
    (site / "acme_that_dies.py").write_text("raise SystemExit('imported')")
    install(site, "acme", "[mlxhub.sinks]\nkafka = acme_that_dies:Kafka\n")
    (offer,) = found()
    assert "acme_that_dies" not in sys.modules
    with pytest.raises(SystemExit, match="imported"):
        offer.load()


def test_what_is_installed_is_read_once(site: Path) -> None:
    before = scan().offers
    install(site, "acme", "[mlxhub.sinks]\nkafka = acme:Kafka\n")
    assert scan().offers is before


def test_to_load_an_offer_is_to_get_the_object_it_names() -> None:
    assert Offer("path", "acme", "1.0", "pathlib:Path").load() is Path
    assert Offer("cwd", "acme", "1.0", "pathlib:Path.cwd [extra]").load() == Path.cwd


@pytest.mark.parametrize("name", ["mlxhub-statsd-sink", "mlxhub_statsd_sink", "MLXHub.StatsD--Sink"])
def test_names_of_packages_are_compared_as_pip_does(name: str) -> None:
    assert normalised(name) == "mlxhub-statsd-sink"


def test_only_packages_of_ours_are_ever_recommended() -> None:
    assert all(package.startswith("mlxhub-") for package in discovery.PACKAGES.values())
