#!/bin/sh
# A model of 0.1 million parameters learns to sort four digits from nothing: a short imitation, then GRPO (Dr. GRPO).
# Questions of the held-out fifth are never learned from.  Results of seed 0: results/language-sorting/.
set -e
bellmark language sft --model tiny-characters --data sorting --steps 85 --batch-size 64 --micro-batch 64 \
  --learning-rate 3e-3 --warm-up 10 --evaluation-answers 2 --directory "${1:-runs}/sorting-sft"
bellmark language grpo --model "${1:-runs}/sorting-sft/model" --data sorting --preset dr_grpo --steps 220 \
  --prompts 16 --group 8 --max-new-tokens 6 --learning-rate 1e-3 --warm-up 5 --micro-batch 128 \
  --directory "${1:-runs}/sorting-grpo"
