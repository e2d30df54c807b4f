"""What do the tests of reading share? A file written, and read to rows and problems."""

from data.reading import sources
from data.schema import DataError

ROW = {"prompt": "Say hi", "completion": "hi"}


def write(folder, content, name="rows.jsonl"):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def read(source):
    """(readable rows as (row, line), problems as (line, field, text)), whether or not reading was stopped.

    A row that cannot be read is yielded without one, on the line of one of its problems.
    """
    problems = []
    rows = []
    try:
        for row in sources.read(source, problems):
            assert row.file == source
            if row.row is None:
                assert row.line <= (problems[-1].line or 0)
            else:
                rows.append((row.row, row.line))
    except DataError as error:
        problems += error.problems
    return rows, [(problem.line, problem.field, str(problem)) for problem in problems]


def only_problem(source):
    rows, problems = read(source)
    assert len(problems) == 1, problems
    assert rows == []
    return problems[0]


CSV = b'prompt,completion\r\n"Say ""hi"", please","two\nlines, yes"\r\nA,B\r\n'
