"""The command line, mostly in this process; a start of its own costs seconds."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lib
from lib import __main__ as cli
from lib import embedded
from lib.generator import stream_text

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "Once upon a time"
SHORT = ["--max-new-tokens", "8"]


@pytest.fixture(scope="module")
def loaded():
    return lib.load("nano", device="cpu")


@pytest.fixture
def run(loaded, monkeypatch, capsys):
    """Run the command line on nano, loaded once; gives status, stdout, stderr."""
    asked, plain = [], embedded.load("nano")

    def load(name, *, device=None):
        asked.append((name, device))
        return loaded

    def load_plain(name):
        asked.append((name, None))
        return plain

    monkeypatch.setattr("lib.models.load", load)
    monkeypatch.setattr("lib.embedded.load", load_plain)

    def call(*arguments, stdin=None):
        monkeypatch.setattr(sys, "stdin", stdin)
        try:
            status = cli.main(list(arguments))
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    call.asked = asked
    return call


class Terminal(io.StringIO):
    def isatty(self):
        return True


def start(*arguments, **options):
    """Start ``python -m lib`` as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    return subprocess.Popen(
        [sys.executable, "-m", "lib", "--model", "nano", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        **options,
    )


# ------------------------------------------------------------------ the text


def test_text_is_that_of_complete(run, loaded):
    flags = ["--temperature", "0.8", "--top-p", "0.9", "--top-k", "50", "--seed", "1"]
    status, out, err = run(PROMPT, *flags, *SHORT)
    settings = {"temperature": 0.8, "top_p": 0.9, "top_k": 50, "seed": 1}
    text = lib.complete(*loaded, PROMPT, do_sample=True, max_new_tokens=8, **settings)
    assert (status, out, err) == (0, text + "\n", "")


def test_the_readme_shows_what_a_first_try_writes(tmp_path):
    """As anybody would run it: elsewhere, in a process of its own, with few flags."""
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = re.search(r"writes like this \(`(.+?)`\):\n\n> (.+?) \[", readme, re.S)
    flags, story = shown.groups()
    done = subprocess.run(
        [sys.executable, "-m", "lib", "Once upon a time", *flags.split()],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout.startswith(story.replace("\n> ", "\n"))


def test_greedy(run, loaded):
    _, out, err = run(PROMPT, "--greedy", "--no-repeat-ngram-size", "2", *SHORT)
    text = lib.complete(*loaded, PROMPT, no_repeat_ngram_size=2, max_new_tokens=8)
    assert (out, err) == (text + "\n", "")


def test_fresh_seed_is_told_and_repeats_the_text(run):
    _, first, err = run(PROMPT, *SHORT)
    seed = err.split()[-3]
    assert err == f"seed {seed}: --seed {seed} repeats this\n"
    _, second, err = run(PROMPT, "--seed", seed, *SHORT)
    assert second == first
    assert err == ""


def test_pieces_are_written_as_they_come(loaded, monkeypatch):
    events = []

    class Out(io.StringIO):
        def flush(self):
            events.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Out())
    cli.write_text(*loaded, PROMPT, {"max_new_tokens": 4})
    texts = [PROMPT]
    for piece in stream_text(*loaded, PROMPT, max_new_tokens=4):
        texts.append(texts[-1] + piece)
    assert events == [*texts, texts[-1] + "\n"]


def test_stop_and_min_new_tokens(run):
    _, out, _ = run("Tom", "--seed", "3", "--stop", ".", "--stop", "!", *SHORT)
    assert not {".", "!"} & set(out.rstrip("\n")[:-1])
    _, short, _ = run(PROMPT, "--greedy", "--max-new-tokens", "3")
    _, long, _ = run(
        PROMPT, "--greedy", "--min-new-tokens", "5", "--max-new-tokens", "5"
    )
    assert len(long) > len(short)


def test_model_and_device_are_handed_on(run):
    run("A", "--model", "some/where", "--device", "cpu", "--greedy", *SHORT)
    run("A", "--greedy", *SHORT)
    assert run.asked == [("some/where", "cpu"), ("tiny", None)]


# ------------------------------------------------------------------- prompts


def test_several_prompts_are_separated(run, loaded):
    _, out, _ = run("Tom", "Lily", "--seed", "5", *SHORT)
    texts = lib.complete(
        *loaded, ["Tom", "Lily"], do_sample=True, seed=5, max_new_tokens=8
    )
    assert out == f"{texts[0]}\n\n---\n\n{texts[1]}\n"


def test_options_and_prompts_may_be_mixed(run):
    _, mixed, _ = run("--seed", "5", "Tom", "--max-new-tokens", "3", "Lily", "--greedy")
    _, plain, _ = run("Tom", "Lily", "--greedy", "--max-new-tokens", "3")
    assert mixed == plain


def test_prompts_from_a_file_and_from_stdin(run, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffTom\r\n\n  \r\nLily saw\n".encode())
    flags = ["--greedy", *SHORT]
    _, expected, _ = run("Tom", "Lily saw", *flags)
    assert run("--file", str(file), *flags)[1] == expected
    assert run("Tom", "--file", str(file), *flags)[1].startswith("Tom")
    assert run("Tom", "--file", str(file), *flags)[1].count("---") == 2
    text = "Tom\n\nLily saw\n"
    assert run(*flags, stdin=io.StringIO(text))[1] == expected
    assert run("--file", "-", *flags, stdin=Terminal(text))[1] == expected
    marked = io.StringIO("\ufeff" + text)  # as Windows writes UTF-8
    assert run(*flags, stdin=marked)[1] == expected


def test_stdin_is_left_alone_where_there_are_prompts(run):
    class Never(io.StringIO):
        def read(self, size=-1):
            raise AssertionError("read")

    assert run("Tom", "--greedy", *SHORT, stdin=Never())[0] == 0


def test_where_there_is_no_standard_error_the_text_stands_alone(run, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    status, text, _ = run("Tom", *SHORT)
    assert status == 0
    assert text.startswith("Tom")


@pytest.mark.parametrize("stdin", [None, Terminal()], ids=["closed", "terminal"])
def test_no_prompt_says_what_to_do(run, stdin):
    status, out, err = run(stdin=stdin)
    assert (status, out) == (2, "")
    assert 'no prompt: give a text to continue, as in python -m lib "Once' in err
    assert run.asked == []


# --------------------------------------------------------------------- traces


def test_json_gives_one_trace_a_line(run, loaded):
    flags = ["--json", "--seed", "3", "--top-p", ".9", *SHORT]
    status, out, err = run("Tom", "Lily", *flags)
    assert (status, err) == (0, "")
    traces = [lib.Trace.from_json(line) for line in out.splitlines()]
    model, tokenizer = loaded
    texts = lib.complete(
        *loaded,
        ["Tom", "Lily"],
        do_sample=True,
        top_p=0.9,
        seed=3,
        max_new_tokens=8,
    )
    rows = [trace.sequences[0] for trace in traces]
    assert tokenizer.batch_decode(rows, skip_special_tokens=True) == texts
    assert traces[0].seed == (3,)
    assert lib.replay(traces[0], model) == traces[0]


def test_json_of_a_fresh_seed_holds_it(run):
    _, out, err = run("Tom", "--json", *SHORT)
    (seed,) = json.loads(out)["seed"]
    assert f"--seed {seed} " in err


# ------------------------------------------------------------- what is refused

BAD = {
    "top-p zero": (["--top-p", "0"], ["--top-p 0.0", "> 0 and <= 1", "--greedy"]),
    "top-p high": (["--top-p", "1.5"], ["--top-p 1.5", "> 0 and <= 1"]),
    "top-p nan": (["--top-p", "nan"], ["--top-p nan", "> 0 and <= 1"]),
    "top-p text": (["--top-p", "most"], ["--top-p most", "> 0 and <= 1"]),
    "temperature zero": (
        ["--temperature", "0"],
        ["--temperature 0.0", "> 0", "greedy"],
    ),
    "temperature below": (["--temperature", "-1"], ["--temperature -1.0", "> 0"]),
    "temperature inf": (["--temperature", "inf"], ["--temperature inf", "> 0"]),
    "top-k below": (["--top-k", "-1"], ["--top-k -1", ">= 0", "--top-k 0 to switch"]),
    "top-k part": (["--top-k", "5.0"], ["--top-k 5.0", "an integer >= 0"]),
    "ngram": (
        ["--no-repeat-ngram-size", "-2"],
        ["--no-repeat-ngram-size -2", ">= 0", "switch the ban off"],
    ),
    "seed below": (["--seed", "-1"], ["--seed -1", "from 0 to 9007199254740991"]),
    "seed high": (["--seed", str(2**53)], ["--seed 9007199254740992", "from 0 to"]),
    "seed text": (["--seed", "lucky"], ["--seed lucky", "from 0 to"]),
    "seed alone": (["--seed"], ["--seed", "expected one argument"]),
    "max zero": (["--max-new-tokens", "0"], ["--max-new-tokens 0", ">= 1"]),
    "min below": (["--min-new-tokens", "-1"], ["--min-new-tokens -1", ">= 0"]),
    "stop empty": (["--stop", ""], ["--stop ''", "at least one character"]),
    "slip": (["--topp", "0.9"], ["--topp", "did you mean --top-p?"]),
    "abbreviation": (["--temp", "0.9"], ["unknown option --temp"]),
    "unknown": (["--zzz"], ["--zzz", "--help lists the options"]),
    "no file": (["--file", "/no/such"], ["--file /no/such", "No such file"]),
    "folder": (["--file", "."], ["--file .", "cannot be read"]),
    "surrogate": (["\udcff"], ["is not UTF-8 text"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_refused_before_loading(run, case):
    flags, words = BAD[case]
    status, out, err = run(PROMPT, *flags)
    assert (status, out) == (2, "")
    assert err.startswith("python -m lib: error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert run.asked == []


BAD_FOR_THE_MODEL = {
    "too long": (
        ["--max-new-tokens", "9999"],
        ["--max-new-tokens 9999", "from 1 to 50"],
    ),
    "min over max": (
        ["--min-new-tokens", "9", "--max-new-tokens", "4"],
        ["--min-new-tokens 9", "from 0 to 4"],
    ),
    "empty": ([""], ["prompt '' has no tokens", "at least one"]),
}


@pytest.mark.parametrize("case", BAD_FOR_THE_MODEL)
def test_nothing_is_written_before_all_prompts_are_checked(run, case):
    flags, words = BAD_FOR_THE_MODEL[case]
    status, out, err = run(PROMPT, *flags)
    assert (status, out, err.count("\n")) == (2, "", 1)
    for word in words:
        assert word in err


def test_bad_text_is_refused(run, tmp_path):
    file = tmp_path / "latin.txt"
    file.write_bytes("Zoë".encode("latin-1"))
    status, _, err = run("--file", str(file))
    assert status == 2
    assert "is not UTF-8 text" in err
    assert err.count("\n") == 1
    stdin = io.TextIOWrapper(io.BytesIO(b"Tom \xff"), encoding="latin-1")
    status, _, err = run(stdin=stdin)
    assert (status, "standard input is not UTF-8 text" in err) == (2, True)
    status, _, err = run(stdin=io.StringIO("\n \n"))
    assert (status, "standard input holds no prompt" in err) == (2, True)


@pytest.mark.parametrize("device", ["abacus", "xpu:99"])
def test_a_device_that_is_not_there(run, device):
    status, _, err = run("A", "--device", device)
    assert (status, err.count("\n")) == (2, 1)
    assert f"--device {device} is not to be had here; allowed: cpu" in err


def test_a_model_that_cannot_be_loaded(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_layer": "many"}')
    with pytest.raises(SystemExit) as end:
        cli.main(["A", "--model", str(tmp_path)])
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (2, "", 1)
    assert f"--model {tmp_path}" in err


def test_a_model_without_limit_needs_one(run, loaded, monkeypatch):
    monkeypatch.setattr("lib.forward.context_length", lambda config: None)
    status, _, err = run("A")
    assert status == 2
    assert "--max-new-tokens is needed" in err


def test_a_run_that_fails_on_the_way(run, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli, "write_text", full)
    status, _, err = run("A", "--greedy")
    assert (status, err.count("\n")) == (1, 1)
    assert "No space left" in err


def test_ctrl_c_keeps_what_was_written(run, monkeypatch):
    def interrupted(*arguments, **settings):
        yield " there"
        raise KeyboardInterrupt

    monkeypatch.setattr("lib.generator.stream_text", interrupted)
    assert run("Once", "--greedy") == (130, "Once there\n", "")


def test_help_shows_examples_and_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    out, err = capsys.readouterr()
    assert (end.value.code, err) == (0, "")
    assert 'python -m lib "Once upon a time" --temperature 0.8 --top-p 0.9' in out
    for flag in cli.FLAGS.values():
        assert flag in out
    assert max(map(len, out.splitlines())) <= 90


# ------------------------------------------------------ as a process of its own


def test_process_writes_utf8_in_an_empty_folder(tmp_path):
    process = start("Zoë 🙂", "--greedy", *SHORT, cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, b"")
    assert out.decode().startswith("Zoë 🙂")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="signals and pipes of POSIX")
def test_process_streams_and_ends_quietly():
    flags = ["--greedy", "--max-new-tokens", "400"]
    with start(*flags, stdin=subprocess.PIPE) as process:
        process.stdin.write(b"Tom\n" * 200)
        process.stdin.close()
        assert process.stdout.read(3) == b"Tom"  # long before the 200 texts are done
        assert process.poll() is None
        process.stdout.close()  # as `| head -1` does
        assert process.wait(timeout=120) == 0
        assert process.stderr.read() == b""


@pytest.mark.skipif(os.name == "nt", reason="signals and pipes of POSIX")
def test_process_interrupted():
    with start(*["Tom"] * 200, "--greedy", "--max-new-tokens", "400") as process:
        begun = process.stdout.read(3)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert (begun + out).startswith(b"Tom")
    assert (begun + out).endswith(b"\n")
    assert err == b""
