from __future__ import annotations

from tests.notebook import Notebook

TRANSFORMER = """
seen = []
def questions(lines):
    seen.append("".join(lines))
    return [line.replace("¿", "print", 1) if line.startswith("¿") else line for line in lines]
get_ipython().input_transformers_post.append(questions)
"""


def test_a_notebooks_input_transformers_see_a_cell_once_and_count_in_its_job(notebook: Notebook) -> None:
    notebook.run(TRANSFORMER)
    cell = "¿('here')\nx = 1\n"
    for magic in ("%%time", "%%local", "%%dispatch --wait --needed --pull x"):
        reply = notebook.run(f"{magic}\n{cell}")
        assert reply.text.startswith("here\n"), reply
        assert notebook.value(f"[seen.count({cell!r}), seen.clear()][0]") == 1, magic
    assert notebook.run("%local 1 + 1").shown == "2" and notebook.value("seen.count('1 + 1\\n')") == 1
