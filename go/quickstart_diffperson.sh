# shellcheck shell=bash
# Sourced by quickstart.sh: a generator learns rendered people and writes new pictures of them; a backbone that is
# pre-trained on these is compared with a random one.

logs=logs/quickstart_diffperson
data=datasets/quickstart_diffperson
easy=(--occlusion 0 --bystander 0 --colour-response 0.3 --crop-error 0.03)

render() { # NAME SEED TRAIN_PEOPLE TEST_PEOPLE IMAGES [OPTIONS]
  python tools/render_benchmark.py --name "$1" --seed "$2" --train-ids "$3" --test-ids "$4" --images-per-id "$5" "${@:6}"
}

step "rendering people for a small Stable Diffusion"
render Market1501 77 1200 2 2 --root "$data/drawing" --captions "$data/drawing/captions.jsonl" "${easy[@]}" \
  --lookalike-group 1 --palette-size 12 --resolution 0.5
step "training a small Stable Diffusion on them, which stands for published weights"
python tools/make_assets.py --size small --text
python tools/train_small_diffusion.py --captions "$data/drawing/captions.jsonl"
step "rendering the people that are written, and another place"
render Market1501 5 80 60 10 --root "$data" --captions "$data/captions.jsonl" "${easy[@]}"
render MSMT17 6 80 60 10 --root "$data"
for name in judge neutral; do
  step "training the re-identification model $name"
  train "diffperson_$name"
done
step "Diffusion-ReID: captions, a reference set, the training of a generator, its pictures, filters, a benchmark"
python tools/diffperson.py caption reference train generate filter export \
  --config-file configs/quickstart/diffperson.yml DATASETS.ROOT "$data"
step "pre-training a backbone on the written people alone, and adding its figures to their card"
ln -sfn "$PWD/$logs/DiffPerson" "$data/DiffPerson"
train diffperson_pretrain
python tools/convert_checkpoint.py --overwrite --backbone "$logs/diffperson_pretrain/model_final.pth" "$logs/backbone.pth"
python tools/diffperson.py export --config-file configs/quickstart/diffperson.yml DATASETS.ROOT "$data" \
  DIFFPERSON.CARD.RESULTS "$logs/diffperson_pretrain/results.json"
step "comparing it with a random backbone"
python tools/transfer.py --backbones "random=random" "written=$logs/backbone.pth" --seeds 1 --ratios 0.5 --jobs 2 \
  --settings supervised small_scale few_shot unsupervised adaptation generalization --source Market1501 --target MSMT17 \
  --config-file configs/quickstart/diffperson_transfer.yml --output "$logs/transfer" \
  --unsupervised-config-file configs/quickstart/diffperson_unsupervised.yml DATASETS.ROOT "$data"
step "writing the report"
python tools/make_report.py --run "random=$logs/transfer/supervised/random/seed1" \
  --run "written=$logs/transfer/supervised/written/seed1" --output "$logs/report.html"
echo "    the written people are shown in $logs/DiffPerson/card.html, all settings in $logs/transfer/results.md"
