"""The text that the model sees, and where the prompt in it ends."""

from dataclasses import dataclass

from qatune.config import Data


@dataclass(frozen=True)
class Template:
    """The recipe's template, cut where the values go.

    The prompt ends before the white space that precedes the answer. Tokenizers join that space
    to the answer's first word; with the space in the prompt, its ids would be no prefix of the
    row's. Values may hold braces: nothing in them is read as a field.
    """

    head: str
    """Text before the question."""
    middle: str
    """Text between question and answer, without the white space at its end."""
    gap: str
    """That white space: the start of the completion."""

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Cut `text`, which holds {question} and ends with {answer} (config.Data checks it)."""
        head, _, rest = text.partition("{question}")
        rest = rest.removesuffix("{answer}")
        middle = rest.rstrip()
        return cls(head, middle, rest[len(middle) :])

    @classmethod
    def of(cls, data: Data) -> "Template":
        return cls.parse(data.template)

    def prompt(self, question: str) -> str:
        return f"{self.head}{question}{self.middle}"

    def completion(self, answer: str) -> str:
        return f"{self.gap}{answer}"

    def text(self, question: str, answer: str) -> str:
        """Return prompt and completion in one."""
        return self.prompt(question) + self.completion(answer)

    def characters(self, question: str, answer: str) -> int:
        """Length of the whole text."""
        fixed = len(self.head) + len(self.middle) + len(self.gap)
        return fixed + len(question) + len(answer)
