"""Tasks for one causal language model: answers as texts and label words, an adapter a group, served and exported."""

import random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import coterie
from coterie.workload.causal import encode, from_causal, save_adapter

# a model of twenty thousand numbers; in earnest: AutoModelForCausalLM.from_pretrained(folder) and its tokenizer
END, WORDS = "<end>", ["add", "double", "less", "more", "than", "?", "yes", "no", *map(str, range(20))]
words = Tokenizer(models.WordLevel({word: number for number, word in enumerate([END, *WORDS])}, unk_token=END))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END)
torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS) + 1, eos_token_id=0, initializer_range=0.2, **sizes))

pairs = random.Random(1).choices([(a, b) for a in range(10) for b in range(10)], k=60)
tasks = {
    "add": ([f"add {a} {b} ?" for a, b in pairs], [f"{a + b}" for a, b in pairs]),  # scored by the whole answer
    "double": ([f"double {a} ?" for a, _ in pairs], [f"{2 * a}" for a, _ in pairs]),
    "less": ([f"{a} less than {b} ?" for a, b in pairs], [int(a < b) for a, b in pairs]),  # scored by two words
    "more": ([f"{a} more than {b} ?" for a, b in pairs], [int(a > b) for a, b in pairs]),
}
yes_no, lora = {"yes": 1, "no": 0}, {"r": 8, "target_modules": "all-linear"}
recipe = coterie.Recipe(epochs=10, batch_size=32, learning_rate=1e-2, weight_decay=0.0)
workload = from_causal(
    tasks, model, tokenizer, words={"less": yes_no, "more": yes_no}, lora=lora, recipe=recipe, name="causal"
)

if __name__ == "__main__":
    torch.set_num_threads(1)
    result = coterie.run(workload, groups=2, seeds=2, bases=1, out="runs/causal")
    print(result)
    predictor = coterie.load("runs/causal", workload=workload)
    questions = encode(["3 less than 7 ?", "7 less than 3 ?"], tokenizer=tokenizer)
    print("yes:", predictor.predict(questions)["less"].round(2).tolist())
    scored = encode(["add 3 4 ?", "add 3 4 ?"], ["7", "8"], tokenizer)
    print("probability of the answer:", predictor.predict(scored)["add"].round(3).tolist())
    scorer = predictor.models[predictor.serves["add"]]
    ids = torch.tensor([tokenizer("add 3 4 ?")["input_ids"]])
    made = scorer.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, pad_token_id=0)
    print("generated:", tokenizer.decode(made[0]))
    print("adapter:", save_adapter(scorer, "runs/causal adapter"))
