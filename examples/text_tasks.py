"""Text tasks with adapters on one frozen encoder: from texts to served predictions and exported adapters.

The encoder is a small random one, so that the example runs anywhere; put the folder of your own in its place.
"""

import random

import torch
from transformers import BertConfig, BertModel, BertTokenizer

import coterie
from coterie.serving import export_adapters
from coterie.workload import from_text

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = (
    *("good", "fine", "warm", "bad", "poor", "cold", "cat", "dog", "cow"),
    *("sun", "rain", "snow", "the", "a", "is", "was", "very", "not"),
)
chance = random.Random(0)


def sentences(count: int) -> list[str]:
    return [" ".join(chance.choices(WORDS, k=chance.randint(3, 8))) for _ in range(count)]


def holds(texts: list[str], *words: str) -> list[str]:
    return ["yes" if set(words) & set(text.split()) else "no" for text in texts]


def encoder() -> BertModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertModel(BertConfig(vocab_size=len(SPECIAL) + len(WORDS), initializer_range=0.3, **sizes))


tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate([*SPECIAL, *WORDS])}, model_max_length=32)
texts = {name: sentences(80) for name in ("praise", "blame", "animals", "weather")}
tasks = {
    "praise": (texts["praise"], holds(texts["praise"], "good", "fine")),
    "blame": (texts["blame"], holds(texts["blame"], "bad", "poor")),
    "animals": (texts["animals"], holds(texts["animals"], "cat", "dog")),
    "weather": (texts["weather"], holds(texts["weather"], "sun", "rain")),
}
recipe = coterie.Recipe(learning_rate=3e-3, epochs=5, batch_size=32)
workload = from_text(tasks, encoder(), tokenizer, lora=4, max_length=16, recipe=recipe, name="text tasks")

if __name__ == "__main__":
    torch.set_num_threads(1)
    result = coterie.run(workload, groups=2, seeds=2, bases=1, out="runs/text")
    print(result)
    predictor = coterie.load("runs/text", workload=workload)
    inputs = predictor.models[0].encode(["the cat is good", "a cold rain"])
    for name, values in predictor.predict(inputs).items():
        print(name, values.round(2).tolist())
    for folder in export_adapters("runs/text", "runs/text-adapters", workload=workload):
        print(folder, sorted(path.name for path in folder.iterdir()))
