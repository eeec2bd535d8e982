"""``weights list`` and ``weights fetch`` with a server on this machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers.small_release import LocalServer, sha256

from mmrs_bench.cli import main
from mmrs_bench.models import weights as module
from mmrs_bench.models.weights import Weights, weights_named

NAME = "adm-imagenet-64"
CONTENT = b"weights" * 100_000
SHA256 = sha256(CONTENT)


Use = Callable[..., Weights]


@pytest.fixture
def use(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Replaces the list of checkpoints by one that the server delivers."""
    server.serve("/a.pt", CONTENT)

    def replace(path: str = "/a.pt", sha256: str | None = SHA256) -> Weights:
        entry = weights_named(NAME).model_copy(update={"url": server.url(path), "sha256": sha256})
        monkeypatch.setattr(module, "all_weights", lambda: (entry,))
        monkeypatch.setattr("mmrs_bench.commands.weights.all_weights", lambda: (entry,))
        return entry

    return replace


def test_a_checkpoint_is_fetched_once_and_its_hash_is_printed(
    use: Use, server: LocalServer, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = use()
    assert main(["weights", "list"]) == 0
    assert f"{NAME}  absent" in capsys.readouterr().out
    for _ in range(2):
        assert main(["weights", "fetch", NAME]) == 0
        shown = capsys.readouterr()
        assert shown.out == f"{entry.path}\n"
        assert f"SHA-256 {SHA256}, as expected" in shown.err
    assert entry.path.read_bytes() == CONTENT
    assert server.requests == ["/a.pt"]
    assert main(["weights", "list"]) == 0
    assert f"{NAME}  complete" in capsys.readouterr().out


def test_a_hash_that_the_publisher_does_not_state_is_printed(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    use(sha256=None)
    assert main(["weights", "fetch", NAME]) == 0
    assert f"SHA-256 {SHA256}; its publisher states none" in capsys.readouterr().err


def test_wrong_bytes_are_kept_aside_and_never_used(use: Use, refused: Callable[..., str]) -> None:
    entry = use(sha256="0" * 64)
    assert f"has SHA-256 {SHA256}" in refused("weights", "fetch", NAME, progress=1)
    assert entry.local_file() is None


def test_a_damaged_file_is_moved_away_and_fetched_again(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    entry = use()
    entry.path.parent.mkdir(parents=True)
    entry.path.write_bytes(b"cut off")
    assert main(["weights", "fetch", NAME]) == 0
    assert "moved the wrong file to" in capsys.readouterr().err
    assert entry.path.read_bytes() == CONTENT


@pytest.mark.parametrize(("content", "fault"), [(b" <html>sign in</html>", "is a web page"), (b"", "is empty")])
def test_what_is_no_checkpoint_is_refused_also_without_a_hash(
    use: Use, server: LocalServer, refused: Callable[..., str], content: bytes, fault: str
) -> None:
    entry = use(sha256=None)
    server.serve("/a.pt", content)
    assert f"{fault}, expected a checkpoint" in refused("weights", "fetch", NAME, progress=1)
    assert entry.local_file() is None
    entry.path.write_bytes(content)
    server.serve("/a.pt", CONTENT)
    assert main(["weights", "fetch", NAME]) == 0, "a file that is here is looked at, too"
    assert entry.path.read_bytes() == CONTENT


def test_an_address_that_fails_gives_one_line_with_the_destination(use: Use, refused: Callable[..., str]) -> None:
    entry = use("/missing.pt")
    line = refused("weights", "fetch", NAME, progress=1)
    assert "404" in line
    assert f"put the file at {entry.path}" in line
    assert not entry.path.exists()


def test_a_mirror_of_hugging_face_is_used(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = weights_named("clip-vit-b-16")
    server.serve(entry.url.removeprefix("https://huggingface.co"), CONTENT)
    monkeypatch.setenv("HF_ENDPOINT", server.url("/"))
    assert main(["weights", "fetch", "clip-vit-b-16"]) == 0
    assert entry.path.read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_gives_one_line(use: Use, refused: Callable[..., str]) -> None:
    entry = use()
    entry.path.parent.parent.mkdir(parents=True)
    entry.path.parent.write_text("a file")
    assert "MMRS_BENCH_CACHE" in refused("weights", "fetch", NAME)
