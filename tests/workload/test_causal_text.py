"""Prompts, answers and label words as texts; what is refused, and why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from coterie.errors import ModelError, SettingError, WorkloadError
from coterie.workload import Recipe
from coterie.workload.causal import encode, from_causal
from coterie.workload.causal.tokens import Tokens
from coterie.workload.validate import check_data
from reference.causal import sequence_log_odds, word_log_odds

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")

WORDS = ["<unk>", "<s>", "</s>", "User", "Bot", ":", "is", "it", "good", "bad", "?", "yes", "no", "maybe", "red", "sky"]
PROMPTS = ["is it good ?", "is sky bad ?", "sky", "it is red ?"] * 5
ANSWERS = ["yes it is", "no", "red red", "maybe"] * 5
CHAT = "{% for m in messages %}User : {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}Bot :{% endif %}"


def tokenizer(*, begin=True, end=True, chat=False):
    """One token a word, "goodbad" two; `<s>` in front of texts."""
    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(
            {word: index for index, word in enumerate([*WORDS, "##bad"])},
            unk_token=WORDS[0],
            max_input_chars_per_word=20,
        )
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    if begin:
        made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=made)
    wrapped.add_special_tokens({"unk_token": "<unk>", "bos_token": "<s>"} | ({"eos_token": "</s>"} if end else {}))
    if chat:
        wrapped.chat_template = CHAT
    return wrapped


def language_model(**options):
    torch.manual_seed(0)
    settings = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings |= {"vocab_size": 20, "max_position_embeddings": 32, "initializer_range": 0.4, "eos_token_id": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings | options)).eval()


def tasks():
    return {"answer": (PROMPTS, ANSWERS), "good": (PROMPTS, ["yes", "no"] * 10), "again": (PROMPTS, ANSWERS[::-1])}


def build(given=None, model=None, text=None, **options):
    settings = {"words": {"good": {"yes": 1, "no": 0}}, "lora": 2, "recipe": Recipe(epochs=1)} | options
    given = tasks() if given is None else given
    return from_causal(given, model or language_model(), tokenizer() if text is None else text, **settings)


def outputs(workload):
    with torch.no_grad():
        return workload.outputs(workload.build_model(0).eval(), workload.batch(torch.arange(len(workload.labels))))


def ids(*words):
    return [WORDS.index(word) for word in words]


def test_texts_give_the_margins_of_their_tokens():
    model, workload = language_model(), build()
    found = outputs(workload)
    prompt = ids("<s>", "is", "it", "good", "?")
    expected = sequence_log_odds(model, prompt, ids("yes", "it", "is", "</s>"))
    assert float(found[0, 0]) == pytest.approx(expected, abs=1e-4)
    assert float(found[20, 1]) == pytest.approx(word_log_odds(model, prompt, ids("no", "yes"), 1), abs=1e-4)
    assert workload.tasks[1].kind == "binary"
    assert workload.labels[20:24, 1].tolist() == [1, 0, 1, 0]
    assert workload.labels[:20, 0].unique().tolist() == [1]


def test_a_chat_template_is_written_once():
    made, text = build(text=tokenizer(chat=True), template="chat"), tokenizer(chat=True)
    prompt = ids("User", ":", "is", "it", "good", "?", "Bot", ":")
    assert made.inputs["input_ids"][0].tolist()[: len(prompt)] == prompt
    expected = sequence_log_odds(language_model(), prompt, ids("yes", "it", "is", "</s>"))
    assert float(outputs(made)[0, 0]) == pytest.approx(expected, abs=1e-4)
    same = encode([[{"role": "user", "content": PROMPTS[0]}]], [ANSWERS[0]], text, template="chat")
    assert same["input_ids"][0].tolist() == made.inputs["input_ids"][0, : same["input_ids"].shape[1]].tolist()


def test_a_function_may_be_the_template():
    made = Tokens(tokenizer(), lambda prompt: f"User : {prompt} Bot :")
    assert made.prompt("sky") == ids("<s>", "User", ":", "sky", "Bot", ":")
    assert made.following("sky", "yes") == ids("yes")


def test_several_words_are_classes():
    words = {"good": ["no", "yes", "maybe"]}
    made = build(tasks() | {"good": (PROMPTS, np.arange(20) % 3)}, words=words)
    assert (made.tasks[1].kind, made.tasks[1].classes) == ("multiclass", 3)
    found, prompt = outputs(made)[20], ids("<s>", "is", "it", "good", "?")
    log_odds = word_log_odds(language_model(), prompt, ids("no", "yes", "maybe"), 2)
    p = torch.softmax(found[1:4], 0)[2]
    assert float(torch.log(p / (1 - p))) == pytest.approx(log_odds, abs=1e-4)


def test_cut_prompts_keep_their_beginning_token_and_their_end():
    made = build(max_length=6, truncate=True)
    assert made.inputs["input_ids"].shape[1] == 6
    # "is it good ?" with the first two of its three answer tokens and "</s>" predicted only
    assert made.inputs["input_ids"][0].tolist() == ids("<s>", "good", "?", "yes", "it", "is")


def test_templates_without_a_beginning_token_are_cut_from_the_left():
    made = build(
        text=tokenizer(begin=False), template=lambda prompt: f"User : {prompt} Bot :", max_length=6, truncate=True
    )
    # "User : is it good ? Bot :" has no token of the tokenizer in front that should stay
    assert made.inputs["input_ids"][0].tolist() == ids("?", "Bot", ":", "yes", "it", "is")


def test_prompts_may_be_anything_that_the_template_takes():
    rows = [{"question": prompt} for prompt in PROMPTS]
    made = build({"a": (rows, ANSWERS), "b": (rows, ANSWERS)}, words=None, template=lambda row: row["question"])
    assert torch.equal(made.inputs["input_ids"][:20], build().inputs["input_ids"][:20])


@pytest.mark.parametrize(
    ("options", "error", "parts"),
    [
        ({"max_length": 5}, WorkloadError, ("rows have more than 5 tokens", "truncate=True", "'answer'")),
        ({"max_length": 3, "truncate": True}, WorkloadError, ("answers leave no room", "never cut")),
        ({"words": {"good": ["yes", "goodbad"]}}, WorkloadError, ("one token", "goodbad", "[2]", "sequences")),
        ({"words": {"good": ["never", "always"]}}, WorkloadError, ("same token", "never")),
        ({"words": {"other": ["yes", "no"]}}, SettingError, ("no tasks", "other")),
        ({"words": {"good": ["yes"]}}, SettingError, ("two different words",)),
        ({"words": {"good": {"yes": 2, "no": 1}}}, SettingError, ("class numbers 0, 1",)),
        ({"words": ["yes", "no"]}, SettingError, ("mapping of task names",)),
        ({"words": {"good": ["maybe", "red"]}}, WorkloadError, ("among its words", "yes")),
        ({"template": "alpaca"}, SettingError, ("'chat'", "alpaca")),
        ({"template": "chat"}, SettingError, ("no chat template",)),
        ({"lora": "big"}, SettingError, ("`lora`",)),
        ({"lora": {"r": 2, "target_modules": ["nothing"]}}, SettingError, ("target_modules", "q_proj")),
        ({"text": tokenizer(end=False)}, SettingError, ("end token", "eos_token")),
        ({"given": {"a": (PROMPTS, ANSWERS[:3])}, "words": None}, WorkloadError, ("'a'", "20 prompts and 3")),
        ({"given": {"a": "text", "b": (PROMPTS, ANSWERS)}, "words": None}, WorkloadError, ("'a'", "pair")),
        ({"given": {"a": (5, ANSWERS), "b": (PROMPTS, ANSWERS)}, "words": None}, WorkloadError, ("'a'", "pair")),
        ({"model": language_model(vocab_size=10)}, SettingError, ("`tokenizer`", "embeddings for 10")),
        ({"given": []}, WorkloadError, ("mapping of task names",)),
        ({"given": {"a": ([5], ["yes"]), "b": (PROMPTS, ANSWERS)}, "words": None}, WorkloadError, ("texts", "5")),
        (
            {"given": {"a": ([""], ["yes"])}, "words": None, "text": tokenizer(begin=False)},
            WorkloadError,
            ("no tokens",),
        ),
        ({"model": torch.nn.Linear(2, 2)}, SettingError, ("causal language model", "Linear")),
        ({"model": language_model().to(torch.float16)}, ModelError, ("float16", "bfloat16")),
        ({"model": language_model(max_position_embeddings=4)}, SettingError, ("max_length", "reads 4")),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_a_way_out(options, error, parts):
    with pytest.raises(error) as caught:
        build(**options)
    for part in parts:
        assert part in str(caught.value)


def test_quantised_and_adapted_models_are_refused():
    for kind in ("parameter", "buffer"):
        model = language_model()
        layer = model.model.layers[0].mlp.up_proj
        if kind == "parameter":
            layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
        else:
            layer.register_buffer("packed", torch.zeros(4, 4, dtype=torch.int32))
        with pytest.raises(ModelError, match="quantised"):
            build(model=model)
    import peft

    with pytest.raises(ModelError, match="merge_and_unload"):
        build(model=peft.get_peft_model(language_model(), peft.LoraConfig(r=1, target_modules=["q_proj"])))
    mistral = transformers.MistralConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=20, sliding_window=4, eos_token_id=2,
    )  # fmt: skip
    with pytest.raises(SettingError, match="sliding window of 4"):
        build(model=transformers.MistralForCausalLM(mistral))


def test_texts_without_a_tokenizer_are_refused():
    with pytest.raises(WorkloadError, match="a tokenizer that was not passed"):
        from_causal(tasks(), language_model(), lora=2)


def test_other_modules_are_refused_with_token_numbers_too():
    with pytest.raises(SettingError, match="causal language model"):
        from_causal({name: ([[5]] * 20, [[6]] * 20) for name in "ab"}, torch.nn.Linear(2, 2), lora=2)


def test_words_that_depend_on_the_end_of_the_prompt_are_refused():
    class Spaced:
        """Marks words after a space, as byte-level tokenizers do."""

        eos_token_id, eos_token = 9, "</s>"

        def __call__(self, text, *, add_special_tokens):
            del add_special_tokens
            pieces = text.replace(" ", " _").split(" ")
            known = ["", "_", "ask", "yes", "_yes", "no", "_no"]
            return {"input_ids": [known.index(piece) for piece in pieces if piece]}

    prompts = ["ask", "ask", "ask ", *["ask"] * 57]
    with pytest.raises(WorkloadError, match="white space"):
        build({"good": (prompts, ["yes", "no"] * 30), "b": (prompts, ["yes", "no"] * 30)}, text=Spaced())


def test_labels_of_sequence_tasks_are_ones():
    made = build()
    labels = made.labels.clone()
    labels[3, 0] = 0
    with pytest.raises(WorkloadError, match=r"'answer' should all be 1.*Found 0"):
        check_data(replace(made, labels=labels))


def test_encoding_checks_its_arguments():
    with pytest.raises(WorkloadError, match="one answer for each of 1"):
        encode(["sky"], [], tokenizer())
    with pytest.raises(SettingError, match="`end`"):
        encode(["sky"], ["red"], tokenizer(end=False))
    with pytest.raises(WorkloadError, match="`prompts`: 1 of 1 rows"):
        encode(["sky sky sky"], ["red"], tokenizer(), max_length=3)
    assert {name: len(value) for name, value in encode([], None, tokenizer()).items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "positions", "targets"), 0
    )


def test_labels_go_by_the_rows_of_the_prompts():
    import pandas as pd

    name, (prompts, labels) = "good", tasks()["good"]
    rows = pd.Index([f"row {row}" for row in range(len(prompts))])
    mixed = (pd.Series(list(prompts), index=rows), pd.Series(list(labels), index=rows).iloc[::-1])
    plain, paired = build(tasks()), build({**tasks(), name: mixed})
    assert torch.equal(plain.targets, paired.targets)
