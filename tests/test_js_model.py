"""The embedded model in JavaScript against the Python one.

Python writes what it computes into a folder, and node holds the modules of
`lib/widgets` against it.
"""

from __future__ import annotations

import random
import shutil
import unicodedata

import torch
from javascript import ROOT, require_node, run_node_test
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

import lib
from lib.generator import _pieces

WEIGHTS = ROOT / "lib" / "weights"
NEW = 40  # tokens of each continuation
EOT = "<|endoftext|>"

OPENINGS = """\
Once upon a time, there was a little girl named Lily.
One day, a boy named Tom went to the park with his dog.
The old man lived alone in a small house by the sea.
Sara and Ben were playing in the garden when they saw
"Mom, can I have a cookie?" asked Tim.
The cat sat on the
It was raining, and the children could not
Lucy had a secret. She
There was a big, scary dragon who loved to eat
In the middle of the night, the moon
"I don't think we're lost," said the bear, "but I'll ask
The bird's wings weren't strong, so it couldn't
Jack found a magic stone. When he touched it,
After dinner, Grandma told them a story about
A tiny mouse wanted to be
The red truck went up the hill and
She opened the box. Inside, there was
"Help!" cried the frog. "I am stuck in
The teacher said that every child should
They all lived happily ever after. The end.
He ran and ran and ran and ran and
Red, blue, green, yellow, red, blue, green,
Anna likes apples. Ben likes bananas. Carl likes
Why is the sky
Spot the dog barked at the mailman because""".splitlines()

ODD = [
    "a",
    ".",
    " ",
    "\n",
    "\n\n\n",
    "The",
    " the",
    "7",
    "3 + 4 = 7, 12 + 30 = ",
    "ONCE UPON A TIME",
    "   three   spaces   ",
    "tab\tand\r\nreturn",
    "naïve café, Zoë's jalapeño",
    "Es war einmal ein kleines Mädchen",
    "从前有一个小女孩",
    "昔々、あるところに",
    "Жила-была девочка",
    "كان يا ما كان",
    "🐉 met a 🧚🏽‍♀️ in 🇹🇼",
    "\ufeffmark\u0085next\u2028line\u200bzero",
    "e\u0301 and \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "a'day b'story c'them d'read e'very f'my g'llama H'DAY",
    "{'key': [1, 2.5, None]} # code",
    "https://example.org/?q=a&b=c",
    EOT,
    EOT + "Once upon a time",
    "The end." + EOT + "One day",
    EOT + EOT + "\n",
]


def prompts(tokenizer):
    """Prompts as texts and their ids; where the text is None, ids alone."""
    bank = [(text, tokenizer(text)["input_ids"]) for text in OPENINGS + ODD]
    stories = [token for _, ids in bank[: len(OPENINGS)] for token in ids]
    long = stories * 4
    draw = random.Random(5)
    noise = [draw.randrange(len(tokenizer)) for _ in range(64)]
    limit = tokenizer.model_max_length
    return [
        *bank,
        (None, long[: limit - NEW]),
        (None, long[:100]),
        (None, noise[:2]),
        (None, noise[2:12]),
        (None, noise[12:]),
    ]


ALPHABETS = [
    "abcdefgh ETAOIN",
    " \t\n\r\v\f\u00a0\u0085\u2003\u2028\u3000\u180e\u200b\ufeffa.",
    "'sdtmrevl' S’",
    "0123456789²½Ⅷ٣۴ .,-",
    "!?.,;:\"'()[]{}<|>endoftext_ ",
    "éèêëñüßøåÆŒłđħ ",
    "あいう漢字한글งไทยहिन्दी ",
    "😀👍🏽👩‍👧\u200d🇹🇼❤️ \ufe0f",
    "e\u0300\u0301\u0302o\u0308 \u0327",
]


def random_texts(count):
    """Texts from one alphabet, from several, and from all of Unicode.

    Only characters of long standing: what a newer Unicode calls a letter, an older
    program takes for another sign.
    """
    draw = random.Random(20)
    category = unicodedata.ucd_3_2_0.category
    odd = ("Cn", "Co", "Cs")  # not assigned, private, surrogates
    standing = [c for c in map(chr, range(0x110000)) if category(c) not in odd]
    special = [EOT, "<|endoftext", "|>", "<|", "'ll", "'re", " the", "  "]
    for index in range(count):
        length = draw.randrange(1, 60)
        if index % 3 == 0:
            signs = list(draw.choice(ALPHABETS))
        elif index % 3 == 1:
            signs = [*"".join(draw.sample(ALPHABETS, 3)), *special]
        else:
            signs = [*draw.sample(standing, 40), *" a'\n"]
        yield "".join(draw.choice(signs) for _ in range(length))


def random_ids(tokenizer, count):
    """Ids among which many are pieces of characters."""
    draw = random.Random(21)
    broken = [i for i in range(len(tokenizer)) if "\ufffd" in tokenizer.decode([i])]
    for index in range(count):
        pool = broken if index % 2 else range(len(tokenizer))
        ids = [draw.choice(pool) for _ in range(draw.randrange(1, 40))]
        yield [0 if draw.random() < 0.05 else token for token in ids]


def tokenizer_cases(tokenizer):
    texts = ["", *OPENINGS, *ODD, *random_texts(600)]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    return {
        "texts": [
            {"text": text, "ids": ids, "pieces": list(_pieces(tokenizer, [], ids))}
            for text, ids in zip(texts, rows, strict=True)
        ],
        "sequences": [
            {
                "ids": ids,
                "decoded": tokenizer.decode(ids),
                "skipped": tokenizer.decode(ids, skip_special_tokens=True),
            }
            for ids in [*rows, *random_ids(tokenizer, 600)]
        ],
    }


def test_tokenizer(tmp_path):
    require_node()
    _, tokenizer = lib.load("tiny", device="cpu")
    shutil.copy(WEIGHTS / "tiny" / "tokenizer.json", tmp_path)
    print(run_node_test("tokenizer.test.mjs", tokenizer_cases(tokenizer), tmp_path))


def continuations(model, bank, file):
    """Greedy continuations; a file takes the logits before each of their tokens."""
    items, logits = [], {}
    for index, (text, ids) in enumerate(bank):
        new = min(NEW, model.config.n_positions - len(ids))
        row = torch.tensor([ids])
        whole = lib.generate(model, row, max_new_tokens=new, eos_token_id=-1)
        with torch.inference_mode():
            every = model(whole[:, :-1], use_cache=False).logits[0]
        logits[str(index)] = every[len(ids) - 1 :].contiguous()
        tokens = whole[0, len(ids) :].tolist()
        items.append({"text": text, "ids": ids, "tokens": tokens})
    save_file(logits, file)
    return items


def odd_model(folder):
    """A model of sizes that divide by nothing, large weights, float32."""
    torch.manual_seed(4)
    config = GPT2Config(
        vocab_size=103, n_positions=50, n_embd=18, n_layer=2, n_head=3, n_inner=23,
        activation_function="gelu_new", initializer_range=0.4,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases and norms, which begin at 0 and 1
            torch.nn.init.normal_(parameter, mean=0.5)
    state = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    folder.mkdir()
    config.to_json_file(folder / "config.json", use_diff=False)
    save_file(state, folder / "model.safetensors")
    return model


def write_numbers(folder):
    """All half-precision numbers, and a type that the reader refuses."""
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(256, 256)
    halves = bits.view(torch.float16)
    save_file({"F16": halves, "F32": halves.float()}, folder / "halves.safetensors")
    save_file({"ids": torch.arange(3)}, folder / "integers.safetensors")


def test_model(tmp_path):
    require_node()
    for name in lib.models.EMBEDDED:
        shutil.copytree(WEIGHTS / name, tmp_path / name)
    tiny, tokenizer = lib.load("tiny", device="cpu")
    nano, _ = lib.load("nano", device="cpu")
    bank = prompts(tokenizer)
    odd = [(None, ids) for ids in ([0], [102, 7], [5] * 10, [*range(49)])]
    banks = {
        "tiny": (tiny, bank),
        "nano": (nano, bank[::4]),
        "odd": (odd_model(tmp_path / "odd"), odd),
    }
    golden = {
        name: continuations(model, some, tmp_path / f"{name}.safetensors")
        for name, (model, some) in banks.items()
    }
    write_numbers(tmp_path)
    print(run_node_test("gpt2.test.mjs", golden, tmp_path))
