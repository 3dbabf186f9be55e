import pytest
from hypothesis import given
from hypothesis import strategies as st

from qatune.data.prompts import Template

REFERENCE = "### Question: {question}\n### Answer: {answer}"


def test_the_space_before_the_answer_belongs_to_the_completion():
    template = Template.parse(REFERENCE)
    assert template.prompt("Why?") == "### Question: Why?\n### Answer:"
    assert template.completion("So.") == " So."


@pytest.mark.parametrize("template", [REFERENCE, "{question}{answer}", "{question}\n\n{answer}"])
@given(question=st.text(min_size=1), answer=st.text(min_size=1))
def test_prompt_and_completion_make_up_the_text(template, question, answer):
    cut = Template.parse(template)
    expected = question.join(template.removesuffix("{answer}").split("{question}")) + answer
    assert cut.text(question, answer) == expected
    assert cut.prompt(question) + cut.completion(answer) == expected
    assert cut.characters(question, answer) == len(expected)


def test_braces_in_a_question_are_text():
    assert (
        Template.parse(REFERENCE)
        .prompt("{answer}{question}")
        .startswith("### Question: {answer}{question}\n")
    )
