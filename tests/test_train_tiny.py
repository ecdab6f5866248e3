"""The training tool on a toy corpus: its data, its losses, and an exact resume."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import sys
from dataclasses import asdict, replace
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import train_tiny as tool  # noqa: E402

TOY = tool.Recipe(
    n_layer=1,
    n_embd=16,
    n_head=2,
    n_positions=32,
    vocab_size=300,
    epochs=1.0,
    batch_rows=4,
    warmup_steps=3,
)
EVERY = tool.Schedule(eval_every=3, save_every=4)
CHOSEN = [3, 7, 18, 19, 24, 29, 43, 52, 53, 55, 65, 88]  # "aaa", "aaaaaaa", ...
EOT = 999  # of the packing tests, which need no tokenizer

# transformers warns of the tokens that a toy tokenizer lacks.
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def make_stories(count=120, seed=0):
    rng = random.Random(seed)
    words = ["cat", "dog", "sun", "tree", "ball", "girl", "boy", "house", "saw", "was"]
    return [
        f"{number} " + " ".join(rng.choices(words, k=rng.randint(4, 40))) + "."
        for number in map("abcdefghij".__getitem__, (i % 10 for i in range(count)))
    ]


def write_corpus(path, stories):
    path.write_text(f"\n\n{tool.EOT}\n\n".join([*stories, ""]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "toy.txt", make_stories())


@pytest.fixture(scope="module")
def data(corpus):
    return tool.prepare(corpus, TOY, None)


# ---------------------------------------------------------------- the corpus


def test_duplicates_are_dropped_whatever_their_case_and_punctuation(tmp_path):
    stories = ["Tom ran.", "Lily sat.", "tom RAN!", " Tom ran. ", "", "Tom  ran"]
    path = write_corpus(tmp_path / "twice.txt", stories)
    assert tool.read_stories(path) == ["Tom ran.", "Lily sat."]


def test_split_depends_on_each_story_alone():
    stories = make_stories(2000)
    train, validation = map(set, tool.split(stories))
    shuffled = random.Random(1).sample(stories, len(stories))
    assert tuple(map(set, tool.split(shuffled))) == (train, validation)
    # A story keeps its side when others come or go.
    assert set(tool.split(stories[:700])[1]) == validation & set(stories[:700])
    assert not train & validation
    assert train | validation == set(stories)
    # One in twenty, give or take four standard deviations.
    assert abs(len(validation) - 100) < 4 * math.sqrt(2000 * 0.05 * 0.95)


def test_split_is_the_one_that_the_shipped_models_had():
    # A change of the hash would put stories trained on among those validated on.
    assert tool.fingerprint("Tom ran.") == hashlib.sha256(b"tomran").hexdigest()
    chosen = [n for n in range(100) if tool.split(["a" * n])[1]]
    assert chosen == CHOSEN


def test_tokenizer_is_the_same_every_time_and_loses_nothing():
    stories = [*make_stories(), "Zoë said: 你好 🙂"]
    first = tool.train_tokenizer(stories, 300)
    second = tool.train_tokenizer(stories, 300)
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert first.eos_token_id == first.convert_tokens_to_ids(tool.EOT) == 0
    for text in [*stories, "\x00 unseen — text\n\n"]:
        assert first.decode(first.encode(text)) == text


# -------------------------------------------------------------------- packing


def make_documents(count=200, seed=0):
    rng = random.Random(seed)
    lengths = [rng.choice([1, 5, 20, 29, 30, 31, 60, 75]) for _ in range(count)]
    # Every token tells document and place.
    return [[1000 * (n + 1) + i for i in range(k)] for n, k in enumerate(lengths)]


def pieces_of(row):
    """Cut a row behind each <|endoftext|>; one before everything is dropped."""
    row = row[1:] if row[0] == EOT else row
    pieces = [[]]
    for token in row:
        pieces[-1].append(token)
        if token == EOT:
            pieces.append([])
    return [piece for piece in pieces if piece]


@pytest.mark.parametrize("seed", range(5))
def test_pack_loses_no_token_and_cuts_only_what_is_too_long(seed):
    documents, length = make_documents(seed=seed), 32
    rows = tool.pack(documents, length, EOT, random.Random(seed))
    assert max(map(len, rows)) <= length
    pieces = sorted(piece for row in rows for piece in pieces_of(row))
    size = length - 2
    expected = sorted(
        piece + [EOT] * (start + size >= len(tokens))
        for tokens in documents
        for start in range(0, len(tokens), size)
        for piece in [tokens[start : start + size]]
    )
    assert pieces == expected
    # What goes on elsewhere ends its row: nothing follows an unfinished document.
    for row in rows:
        assert all(piece[-1] == EOT for piece in pieces_of(row)[:-1])


def test_half_of_the_rows_begin_as_a_prompt_does():
    rows = tool.pack(make_documents(2000), 32, EOT, random.Random(0))
    bare = sum(row[0] != EOT for row in rows)
    assert abs(bare - len(rows) / 2) < 4 * math.sqrt(len(rows) / 4)
    assert all(row[:2] != [EOT, EOT] for row in rows)


def test_pack_depends_on_its_random_state_alone():
    documents = make_documents()
    first = tool.pack(documents, 32, EOT, random.Random("0/1"))
    assert first == tool.pack(documents, 32, EOT, random.Random("0/1"))
    assert first != tool.pack(documents, 32, EOT, random.Random("0/2"))


def test_batches_are_repeatable_and_padding_is_no_label(data):
    def take(count, first=0):
        ahead = tool.batches(data.documents, TOY, data.eot)
        return list(islice(ahead, first, first + count))

    many = take(2 * data.steps)  # beyond the first epoch
    for (a, b), (c, d) in zip(many[5:], take(len(many) - 5, 5), strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    for inputs, labels in many:
        real = labels != tool.IGNORED
        assert torch.equal(inputs[real], labels[real])
        assert (inputs[~real] == data.eot).all()
        assert real[:, 0].all()
        assert (real[:, 1:] <= real[:, :-1]).all()


# --------------------------------------------------------------------- losses


def test_evaluate_is_what_one_computes_by_hand(data):
    model = tool.make_model(TOY, data.eot)
    stories = [*data.validation, "cat " * 40]  # the last is longer than the context
    nats = tokens = size = count = 0
    model.eval()
    for story in stories:
        ids = [data.eot, *data.tokenizer.encode(story), data.eot]
        if len(ids) > TOY.n_positions:
            continue
        with torch.no_grad():
            probabilities = model(torch.tensor([ids])).logits[0].double().softmax(-1)
        for position, token in enumerate(ids[1:]):
            nats -= math.log(probabilities[position, token])
        tokens += len(ids) - 1
        size += len(story.encode())
        count += 1
    assert 0 < count < len(stories)
    assert tool.evaluate(model.train(), stories, data.tokenizer) == {
        "stories": count,
        "nats_per_token": pytest.approx(nats / tokens, rel=1e-5),
        "bits_per_byte": pytest.approx(nats / math.log(2) / size, rel=1e-5),
    }
    assert model.training


def test_every_parameter_has_one_optimizer(data):
    model = tool.make_model(TOY, data.eot)
    groups = [g for o in tool.make_optimizers(model, TOY) for g in o.param_groups]
    held = [id(p) for g in groups for p in g["params"]]
    assert sorted(held) == sorted(map(id, model.parameters()))
    assert [g["weight_decay"] for g in groups] == [0.1, 0.1, 0.0]


def test_schedule_warms_up_and_falls_to_zero():
    factors = [tool.schedule(step, 50, TOY) for step in range(51)]
    assert factors[:4] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert factors[50] == pytest.approx(0.0)
    assert all(b <= a for a, b in pairwise(factors[3:]))


# ----------------------------------------------------------------- the whole run


def interrupt_after(step):
    """An interruption at a given step of this call."""
    asked = iter(range(1, 10**6))
    return lambda: next(asked) >= step


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return out, tool.train(corpus, out, TOY, schedule=EVERY)


def weights(out):
    from safetensors.torch import load_file

    return load_file(out / "model" / "model.safetensors")


@pytest.mark.parametrize("stops", [[1], [4], [5, 2, 3]], ids=str)
def test_resume_gives_the_weights_of_an_uninterrupted_run(
    corpus, uninterrupted, tmp_path, stops
):
    whole, facts = uninterrupted
    assert facts["steps"] > 12
    for stop in stops:
        interrupted = interrupt_after(stop)
        torch.manual_seed(stop)  # a new process has another random state
        assert (
            tool.train(corpus, tmp_path, TOY, schedule=EVERY, interrupted=interrupted)
            is None
        )
    resumed = tool.train(corpus, tmp_path, TOY, schedule=EVERY)
    assert resumed["history"] == facts["history"]
    assert resumed["final"] == facts["final"]
    expected = torch.load(whole / "checkpoint.pt", weights_only=True)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for name, tensor in expected["model"].items():
        assert torch.equal(state["model"][name], tensor), name
    assert torch.equal(state["rng"], expected["rng"])
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(tmp_path)[name], tensor), name


def test_dropout_is_on_and_its_luck_is_part_of_the_checkpoint(corpus, tmp_path, data):
    """The resume test above would pass without dropout for the wrong reason."""
    batch = next(tool.batches(data.documents, TOY, data.eot))
    training = tool.Training(TOY, data)
    assert tool.loss_of(training.model, batch) != tool.loss_of(training.model, batch)
    training.save(tmp_path / "checkpoint.pt")
    expected = tool.loss_of(training.model, batch)
    torch.manual_seed(5)
    training.load(tmp_path / "checkpoint.pt")
    assert tool.loss_of(training.model, batch) == expected


def test_the_model_learns_and_is_written_whole(uninterrupted, data):
    out, facts = uninterrupted
    assert facts["steps"] == data.steps == facts["history"][-1]["step"]
    losses = [entry["nats_per_token"] for entry in facts["history"]]
    assert losses[-1] < losses[0] < math.log(300) + 0.2
    assert facts["recipe"] == asdict(TOY)
    assert facts["train_tokens"] == sum(map(len, data.documents))
    assert facts["train_stories"] + facts["validation_stories"] == 120
    assert {tensor.dtype for tensor in weights(out).values()} == {torch.float16}
    assert json.loads((out / "model" / "training.json").read_text()) == facts
    assert (out / "model" / "tokenizer.json").is_file()


def test_stop_after_ends_as_if_it_were_the_last_step(corpus, tmp_path):
    schedule = replace(EVERY, stop_after=5)
    assert tool.train(corpus, tmp_path, TOY, schedule=schedule)["steps"] == 5


def test_the_tokenizer_of_another_model_may_be_used(corpus, tmp_path, uninterrupted):
    folder = uninterrupted[0] / "model"
    facts = tool.train(
        corpus,
        tmp_path,
        TOY,
        tokenizer_from=folder,
        schedule=replace(EVERY, stop_after=1),
    )
    assert facts["steps"] == 1
    theirs = (folder / "tokenizer.json").read_bytes()
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == theirs
    with pytest.raises(tool.TrainingError, match="at most 280 tokens"):
        tool.read_tokenizer(folder, 280)
    with pytest.raises(tool.TrainingError, match=r"holds no tokenizer\.json"):
        tool.read_tokenizer(tmp_path, 300)


def test_ctrl_c_waits_for_the_step_at_hand():
    former = signal.getsignal(signal.SIGINT)
    with tool.Interrupt() as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()
        assert signal.getsignal(signal.SIGINT) is former
    assert signal.getsignal(signal.SIGINT) is former


# ---------------------------------------------------------------------- errors


def refused(capsys, *arguments):
    """Run the command line, which must end with 2 and one line, and return it."""
    with pytest.raises(SystemExit) as end:
        tool.main([*map(str, arguments), "--device", "cpu"])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.count("\n") == 1
    return error


def test_a_corpus_that_cannot_be_used(tmp_path, capsys):
    out = ["--out", tmp_path / "out"]
    missing = tmp_path / "missing.txt"
    assert f"{missing}: No such file" in refused(capsys, "--corpus", missing, *out)
    plain = tmp_path / "plain.txt"
    plain.write_text("Tom ran.\n\nLily sat.")
    assert "holds no <|endoftext|>" in refused(capsys, "--corpus", plain, *out)
    plain.write_bytes(b"\xff")
    assert "is not UTF-8 text" in refused(capsys, "--corpus", plain, *out)
    write_corpus(plain, ["Tom ran.", "Lily sat."])
    assert "is too small: 2 stories" in refused(capsys, "--corpus", plain, *out)
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there(corpus, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tool.main(
            ["--corpus", str(corpus), "--out", str(tmp_path), "--device", "abacus"]
        )
    assert "--device abacus is not there" in capsys.readouterr().err


def test_a_checkpoint_of_another_recipe(uninterrupted, corpus, tmp_path, data):
    checkpoint = uninterrupted[0] / "checkpoint.pt"
    other = tool.Training(replace(TOY, epochs=2.0), data)
    with pytest.raises(
        tool.TrainingError, match=r"another recipe \(epochs: 1\.0, now 2"
    ):
        other.load(checkpoint)
    stories = write_corpus(tmp_path / "other.txt", make_stories(seed=1))
    other = tool.Training(TOY, tool.prepare(stories, TOY, None))
    with pytest.raises(tool.TrainingError, match=r"another recipe \(corpus: "):
        other.load(checkpoint)


def test_an_early_checkpoint_without_identity(uninterrupted, data, tmp_path):
    state = torch.load(uninterrupted[0] / "checkpoint.pt", weights_only=True)
    del state["identity"]
    torch.save(state, tmp_path / "early.pt")
    training = tool.Training(TOY, data)
    training.load(tmp_path / "early.pt")
    assert training.step == data.steps
    wider = tool.Training(replace(TOY, n_embd=32), data)
    with pytest.raises(tool.TrainingError, match="not of this recipe, or damaged"):
        wider.load(tmp_path / "early.pt")
    (tmp_path / "early.pt").write_bytes(b"half a file")
    with pytest.raises(tool.TrainingError, match="not of this recipe, or damaged"):
        training.load(tmp_path / "early.pt")


# --------------------------------------------------------------- on a GPU


@pytest.mark.gpu
def test_training_on_a_gpu_learns_and_resumes(corpus, tmp_path):
    assert (
        tool.train(
            corpus,
            tmp_path,
            TOY,
            device="cuda",
            schedule=EVERY,
            interrupted=interrupt_after(5),
        )
        is None
    )
    facts = tool.train(corpus, tmp_path, TOY, device="cuda", schedule=EVERY)
    losses = [entry["nats_per_token"] for entry in facts["history"]]
    assert losses[-1] < losses[0]
