"""What a vision-language model answers, in three forms; and steering by it without a gradient."""

import math

import pytest
import torch
from align_http.failure import NotAnswered
from align_http.rubric import Question, read_rubric
from align_http.vlm_judge import VlmJudge

import align
from align import ConfigErrors, PartError, PromptError, Streams

CPU = torch.device("cpu")
QUICK = {"tries": 2, "backoff": 0.0, "cache": False, "model": "tiny"}
NUMBER = Question(text="How bright?")
SHADES = {"light": 1.0, "not light": 0.0, "grey": 0.4}
CHOICE = Question(text="Which?", answer="choice", choices=SHADES)
PROBABILITY = Question(text="Bright?", answer="probability")


def pictures(count=4):
    return Streams(1, tuple(range(count))).uniform((3, 4, 4)).float()


def light(data):
    return (data * 255).round().div(255).mean((1, 2, 3))


def reply(text, finish="stop"):
    return {"message": {"content": text}, "finish_reason": finish}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7.0),
        (" **7.5** ", 7.5),
        ("Score: 8/10", 8.0),
        ("8 out of 10.", 8.0),
        ("10/10", 10.0),
        ("There are 3 cats and 2 dogs.\nFinal answer: 4", 4.0),
        ("<think>perhaps 3, or 12</think>6", 6.0),
        ("I would say 9", 9.0),
        ("1e0", 1.0),
    ],
)
def test_number_is_read_of_a_reply_that_has_one(text, number):
    assert NUMBER.read(reply(text)) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "good",
        "7 or 8",
        "7,5",
        "11",
        "-3",
        "70%",
        "7-8",
        "8/100",
        "GPT4",
        "nan",
        "8\n3 cats",
        "٣a",
    ],
)
def test_number_is_not_guessed_at(text):
    with pytest.raises(NotAnswered, match="the reply should be"):
        NUMBER.read(reply(text))


def test_choice_is_the_whole_reply_or_its_last_line():
    known = {"Light.": 1.0, "Answer: not light": 0.0, "It is pale.\n**grey**": 0.4}
    for text, number in known.items():
        assert CHOICE.read(reply(text)) == number
    for text in ("", "not light, or grey", "lightish", "it is light"):
        with pytest.raises(NotAnswered, match="none of the choices"):
            CHOICE.read(reply(text))


def tokens(**logprobs):
    top = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    return {"logprobs": {"content": [{"token": "x", "top_logprobs": top}]}}


def test_probability_counts_all_spellings_of_both_words():
    some = tokens(Yes=math.log(0.3), yes=math.log(0.1), No=math.log(0.2), Maybe=math.log(0.4))
    assert PROBABILITY.read(some) == pytest.approx(0.4 / 0.6)
    assert PROBABILITY.read(tokens(No=-0.1)) == 0.0
    for wrong in (tokens(Perhaps=0.0), tokens(Yes=float("nan")), reply("Yes"), {"logprobs": 3}):
        with pytest.raises(NotAnswered):
            PROBABILITY.read(wrong)


@pytest.mark.parametrize("wrong", [{}, {"message": {}}, reply(None), reply("7", "length")])
def test_reply_without_an_answer_is_none(wrong):
    with pytest.raises(NotAnswered):
        NUMBER.read(wrong)


def judge(url, **options):
    return VlmJudge(url=url, **(QUICK | options)).build(CPU)


def test_three_forms_of_answers_of_a_server(vlm):
    fake, url = vlm
    data, prompts = pictures(), ["a {cat}"] * 4
    number = judge(url, question="How well is this {prompt}?").score(data, prompts)
    torch.testing.assert_close(number, 10 * light(data), atol=1e-3, rtol=0)
    text = fake.requests[-1]["messages"][0]["content"][1]["text"]
    assert text.startswith("How well is this a {cat}?\nReply with one number from 0 to 10")
    words = {"light": 2.0, "dark": -1.0}
    choice = judge(url, question="Which?", answer="choice", choices=words).score(data, prompts)
    assert choice.tolist() == [2.0 if x > 0.5 else -1.0 for x in light(data)]
    fake.requests.clear()
    probability = judge(url, question="Bright?", answer="probability").score(data, prompts)
    torch.testing.assert_close(probability, light(data), atol=1e-5, rtol=0)
    assert {(r["logprobs"], r["max_tokens"]) for r in fake.requests} == {(True, 1)}


def test_reply_that_is_no_answer_fails_and_is_never_0(vlm):
    fake, url = vlm
    data = pictures(2)
    fake.reply, fake.logprobs = "I cannot judge pictures.", False
    try:
        with pytest.raises(PartError, match="should be one number, and is 'I cannot judge"):
            judge(url, question="How?").score(data, ["x"] * 2)
        with pytest.raises(PartError, match="no logprobs, which this server may not give"):
            judge(url, question="How?", answer="probability").score(data, ["x"] * 2)
        skipping = judge(url, question="How?", on_failure="skip")
        assert bool(skipping.score(data, ["x"] * 2).isnan().all())
    finally:
        fake.reply, fake.logprobs = "", True


def test_rubric_weighs_its_questions_and_asks_some_for_one_prompt_alone(vlm, tmp_path):
    fake, url = vlm
    path = tmp_path / "rubric.toml"
    path.write_text(
        '[[question]]\ntext = "Bright?"\nanswer = "probability"\nweight = 3\n'
        '[[question]]\ntext = "Is there a cat?"\nprompt = "cat"\nhighest = 10\n'
    )
    data = pictures(2)
    part = VlmJudge(url=url, rubric=str(path), price_per_call=0.01, **QUICK)
    assert part.range == (0.0, 10.0) and part.needs_prompt and part.price_per_score == 0.02
    fake.requests.clear()
    score = part.build(CPU).score(data, ["cat", "dog"])
    expected = torch.stack([(3 * light(data)[0] + 10 * light(data)[0]) / 4, light(data)[1]])
    torch.testing.assert_close(score, expected, atol=1e-3, rtol=0)
    assert len(fake.requests) == 3


def test_soft_checks_are_the_geometric_mean_of_probabilities(vlm):
    _, url = vlm
    part = VlmJudge(url=url, template="soft_checks", **QUICK)
    assert part.range == (0.0, 1.0) and part.needs_prompt
    data = pictures(2)
    score = part.build(CPU).score(data, ["two cats"] * 2)
    torch.testing.assert_close(score, light(data), atol=1e-5, rtol=0)
    with pytest.raises(PromptError, match="is empty"):
        part.build(CPU).score(data, [""] * 2)


MISTAKES = {
    '[[question]]\nwords = "x"': "question 1: no key named 'words'",
    "question = 3": "there is no question",
    "[[question]]": "question 1: 'text' is missing",
    '[[question]]\ntext = "x"\nweight = 0': "question 1: 'weight' must be above 0",
    '[[question]]\ntext = "x"\nanswer = "words"': "question 1: 'answer' must be one of number",
    '[[question]]\ntext = "x"\nlowest = 10': "question 1: 'lowest' .10. must be below 'highest'",
    '[[question]]\ntext = "x"\nanswer = "choice"': "question 1: 'choices' must have two or more",
    'average = "median"\n[[question]]\ntext = "x"': "'average' must be one of arithmetic",
    'average = "geometric"\n[[question]]\ntext = "x"\nlowest = -1': "needs numbers of 0 or more",
    'mean = 3\n[[question]]\ntext = "x"': "no key 'mean'",
    "[[question]": "is damaged",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistake_in_a_rubric_is_told_with_its_question(tmp_path, text):
    path = tmp_path / "rubric.toml"
    path.write_text(text)
    with pytest.raises(PartError, match=MISTAKES[text]):
        read_rubric(path, {})


def test_rubric_of_json_may_be_the_list_alone(tmp_path):
    path = tmp_path / "rubric.json"
    path.write_text('[{"text": "x"}, {"text": "y", "weight": 2}]')
    assert [q.weight for q in read_rubric(path, {}).questions] == [1.0, 2]


WRONG = {
    "url": ({"url": "localhost:8000", "question": "x"}, "is no URL of a server"),
    "password": ({"url": "http://a:b@c/v1", "question": "x"}, "must hold no password"),
    "both": ({"question": "x", "template": "soft_checks"}, "write one of 'question'"),
    "neither": ({}, "write one of 'question'"),
    "model": ({"question": "x", "model": " "}, "expected the name of a model"),
    "key": ({"question": "x", "key_env": "sk-123"}, "the key itself belongs into it"),
    "extra": ({"question": "x", "extra": {"messages": []}}, "is written by the reward itself"),
    "rubric": ({"rubric": "nowhere.toml"}, "no file 'nowhere.toml'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_option_that_cannot_be_is_refused_before_anything_is_asked(name):
    options, told = WRONG[name]
    with pytest.raises(ConfigErrors, match=told):
        VlmJudge(**({"url": "http://localhost:1/v1", "model": "m"} | options))


STEER = {"kind": "steer", "steps": 2}
ARMS = {
    "best_of_n": {"mode": {"kind": "best_of_n", "n": 4, "flow_steps": 2}},
    "search": {"mode": STEER, "estimator": {"kind": "search", "draws": 4}},
    "stein": {"mode": STEER, "estimator": {"kind": "stein", "draws": 4}},
}
PARTICLES = {
    "mode": {**STEER, "particles": 4, "dynamics": "ddpm"},
    "estimator": {"kind": "stein", "draws": 2},
}


@pytest.fixture(scope="module")
def dim():
    """Mean brightness of unsteered silhouettes."""
    return float(_sampled({"kind": "best_of_n", "n": 1, "flow_steps": 2}).data.mean())


def _sampled(mode, url=None, weight=3.0, **parts):
    rewards = [lambda data: data.mean((1, 2, 3))]
    if url is not None:
        table = {"kind": "vlm_judge", "url": url, "question": "How bright is it?", **QUICK}
        rewards = [{**table, "weight": weight}]
    options = {"samples": 4, "prompt": "cat", "sampler": "mfm", "unsteered": 0}
    return align.sample("pocket", mode, rewards=rewards, **options, **parts)


@pytest.mark.parametrize("name", ARMS)
def test_judge_without_a_gradient_steers(vlm, dim, name):
    _, url = vlm
    assert float(_sampled(url=url, **ARMS[name]).data.mean()) > dim


def test_particles_go_where_the_judge_says(vlm):
    _, url = vlm
    light, dark = (_sampled(url=url, weight=weight, **PARTICLES) for weight in (3.0, -3.0))
    assert float(light.data.mean()) > float(dark.data.mean())


def test_gradient_estimator_refuses_a_judge(vlm):
    _, url = vlm
    with pytest.raises(align.AlignError, match="needs the reward's gradient"):
        _sampled(STEER, url=url, estimator="gradient")


def test_pairs_are_asked_both_ways_round_and_the_brighter_picture_wins(vlm):
    fake, url = vlm
    data = pictures(6).unflatten(0, (3, 2))
    judge_of_pairs = judge(url, question="Which is brighter, for {prompt}?", answer="pair")
    fake.requests.clear()
    scores = judge_of_pairs.compare(data, ["a", "b"])
    lights = light(data.flatten(0, 1)).unflatten(0, (3, 2))
    shares = lights[:, None] / (lights[:, None] + lights)
    expected = (shares.sum(1) - 0.5) / 2 - 0.5
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)
    assert len(fake.requests) == 2 * judge_of_pairs.calls(3) == 12
    texts = [part.get("text", "") for part in fake.requests[0]["messages"][0]["content"]]
    assert texts[::2] == ["Picture A:", "Picture B:", texts[-1]]
    assert texts[-1].endswith("Reply with one of these, and nothing else: A, B.")
    assert not judge_of_pairs.compare(data[:1], ["a", "b"]).any()


def test_judge_of_pairs_has_no_score_of_one_picture(vlm, tmp_path):
    part = VlmJudge(url=vlm[1], question="Which?", answer="pair", **QUICK)
    assert part.compares and part.range == (-0.5, 0.5)
    with pytest.raises(align.ContractError, match="has no score of one alone"):
        part.build(CPU).score(pictures(1), ["a"])
    (tmp_path / "mixed.toml").write_text(
        '[[question]]\ntext = "Which?"\nanswer = "pair"\n[[question]]\ntext = "Good?"\n'
    )
    with pytest.raises(ConfigErrors, match="answer = 'pair' is for all questions, or for none"):
        VlmJudge(url=vlm[1], rubric=str(tmp_path / "mixed.toml"), **QUICK)


def test_best_of_n_is_chosen_by_pairs(vlm):
    part = VlmJudge(url=vlm[1], question="Brighter?", answer="pair", **QUICK)
    mode = align.BestOfN(n=3, flow_steps=1)
    result = align.sample("pocket", mode, prompt="cat", samples=2, rewards=part)
    plain = align.sample("pocket", align.BestOfN(n=1, flow_steps=1), prompt="cat", samples=2)
    assert result.scores == {}
    assert result.cost.reward_calls == {"vlm_judge": 2 * 6}
    assert (light(result.data) >= light(plain.data) - 1e-6).all()
