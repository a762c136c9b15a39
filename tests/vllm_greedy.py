"""Greedy tokens of a model folder that vLLM loads by itself, as any user of the folder would.

python vllm_greedy.py FOLDER PROMPTS.json TOKENS.json
"""

import json
import sys
from pathlib import Path


def main() -> None:
    from vllm import LLM, SamplingParams

    folder, prompts, tokens = sys.argv[1:]
    llm = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=256)
    asked = [{"prompt_token_ids": ids} for ids in json.loads(Path(prompts).read_text())]
    params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
    found = [list(output.outputs[0].token_ids) for output in llm.generate(asked, params, use_tqdm=False)]
    Path(tokens).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
