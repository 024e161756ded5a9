"""Numbers that were typed into the paper, where a macro of a result file should stand."""

import re

BRACED = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
OPTION = r"(?:\[[^]]*\])*"
# What may hold digits that say nothing of a result: comments, formulas that are set apart, names of files and labels, layout,
# and the two marks for numbers that are none of our results.
FREE = (
    r"\\fontsize\{[\d.]+\}\{[\d.]+\}",
    r"(?<!\\)%.*",
    r"\\begin\{(equation|align)\*?\}(?s:.*?)\\end\{\1\*?\}",
    rf"\\(?:label|ref|eqref|cite[tp]?\*?|input|includegraphics|bibliography|bibliographystyle){OPTION}{BRACED}",
    rf"\\begin\{{(?:tabular|figure|table)\*?\}}{OPTION}(?:{BRACED})?",
    rf"\\(?:setlength|addtolength){BRACED}{BRACED}",
    rf"\\multicolumn{BRACED}{BRACED}",
    rf"\\(?:cmidrule|rotatebox|vspace|hspace|published|given){OPTION}{BRACED}",
    r"[A-Za-z\\'][\w.]*\d\w*",  # kin40k
    r"(?<=[A-Za-z])-\d+(?:/\d+)?",  # Matérn-3/2
)
# Small whole numbers are the powers, indices and halves of formulas in the text.
FORMULA = r"(?<![\d.])[0-4](?![\d.])"


def typed_numbers(text: str) -> list[str]:
    """Every number in the document of a TeX file that is neither a macro nor free."""
    text = text.rpartition(r"\begin{document}")[2]
    for pattern in FREE:
        text = re.sub(pattern, " ", text)
    text = re.sub(r"\$([^$]*)\$", lambda found: re.sub(FORMULA, " ", found.group(1)), text)
    return re.findall(r"\d[\d.,]*(?<![.,])", text)
