"""The settings of a process: what a kernel changed is so in a job, and what the job's cell changed is so at home."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.processes import Job, needs, run_kernel


def test_random_numbers_go_on_in_a_job_and_then_at_home(tmp_path: Path) -> None:
    run_kernel(
        tmp_path,
        "import random; random.seed(7); expected = [random.random() for _ in range(6)]; random.seed(7)\n"
        "drawn = [random.random(), random.random()]",
        "import random; drawn += [random.random(), random.random()]",
        after="assert [*drawn, random.random(), random.random()] == expected",
    )


def test_what_a_notebook_set_for_logging_holds_in_a_job_and_comes_home(tmp_path: Path) -> None:
    said = run_kernel(
        tmp_path,
        """
        import logging, sys
        logging.basicConfig(level=logging.INFO, format="K %(levelname)s %(message)s", stream=sys.stderr)
        logging.getLogger("quiet").setLevel(logging.ERROR)
        logging.getLogger("apart").propagate = False
        logging.addLevelName(15, "DETAIL")
        logging.captureWarnings(True)
        logging.getLogger().addHandler(logging.FileHandler("all.log"))
        logging.info("at home")
        same = logging.root.handlers[0]
        del same
        """,
        """
        import logging, warnings
        logging.info("hello"); logging.debug("silent"); logging.getLogger("quiet").warning("silent")
        warnings.warn("captured")
        assert logging.getLogger("apart").propagate is False and logging.getLevelName(15) == "DETAIL"
        logging.root.handlers[0].setFormatter(logging.Formatter("J %(message)s"))
        logging.root.setLevel(logging.WARNING)
        logging.getLogger("new").setLevel(logging.DEBUG)
        logging.captureWarnings(False)
        """,
        after="""
        assert logging.root.level == logging.WARNING and logging.getLogger("new").level == logging.DEBUG
        assert warnings.showwarning is warnings._showwarning_orig if "warnings" in globals() else True
        logging.warning("back"); logging.info("silent")
        assert len(logging.root.handlers) == 2
        """,
    )
    assert "K INFO hello" in said and "J back" in said and "silent" not in said, said
    assert "K WARNING" in said and "captured" in said, said
    assert (tmp_path / "all.log").read_text().splitlines()[:2] == ["at home", "hello"]


def test_a_handler_of_the_notebooks_own_class_travels_and_stays_the_same_object_at_home(tmp_path: Path) -> None:
    run_kernel(
        tmp_path,
        """
        import logging
        class Keep(logging.Handler):
            def __init__(self): super().__init__(); self.kept = []
            def emit(self, record): self.kept.append(record.getMessage())
        def only_loud(record): return record.levelno >= logging.ERROR
        logging.root.addHandler(Keep())
        logging.root.handlers[0].addFilter(only_loud)
        _handler = logging.root.handlers[0]
        """,
        "import logging; logging.error('heard'); logging.warning('not heard')",
        after="assert logging.root.handlers == [_handler] and _handler.kept == ['heard']",
    )


def test_a_handler_that_writes_elsewhere_is_named(tmp_path: Path) -> None:
    said = run_kernel(
        tmp_path,
        "import io, logging; logging.root.addHandler(logging.StreamHandler(io.StringIO())); logging.root.setLevel(10)",
        "import logging; assert logging.root.level == 10 and not logging.root.handlers",
        after="assert len(logging.root.handlers) == 1",
    )
    assert (
        "left out: logging: handler 0 of root (StreamHandler): it writes to a StringIO, which is this process's own; "
        "add it in the cell, or log to sys.stderr or a file." in said
    )


def test_a_librarys_own_loggers_are_set_when_it_is_imported_there(tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text(
        "import logging\nlogging.getLogger('chatty').addHandler(logging.StreamHandler())"
    )
    run_kernel(
        tmp_path,
        "import sys; sys.path.insert(0, '.')\n"
        "import chatty, logging; logging.getLogger('chatty').setLevel(10); del chatty",
        "import logging, sys; sys.path.insert(0, '.'); assert not logging.getLogger('chatty').handlers\n"
        "import chatty; logger = logging.getLogger('chatty'); assert len(logger.handlers) == 1 and logger.level == 10\n"
        "del logger",
        after="assert len(logging.getLogger('chatty').handlers) == 1",
    )


def test_warnings_filters_hold_in_a_job_and_come_home(tmp_path: Path) -> None:
    run_kernel(
        tmp_path,
        """
        import warnings
        class Mine(UserWarning): pass
        warnings.simplefilter("error", DeprecationWarning)
        warnings.filterwarnings("ignore", "never mind", Mine)
        """,
        """
        import warnings
        with warnings.catch_warnings(record=True) as seen:
            warnings.warn("never mind", Mine)
            try: warnings.warn("x", DeprecationWarning)
            except DeprecationWarning: loud = True
        assert loud and not seen
        warnings.simplefilter("error", Mine)
        """,
        after="""
        try: warnings.warn("never mind", Mine); raise AssertionError
        except Mine: pass
        """,
    )


def test_a_filter_for_a_librarys_warnings_imports_nothing_and_keeps_its_place(tmp_path: Path) -> None:
    needs("sklearn")
    run_kernel(
        tmp_path,
        """
        import warnings
        import sklearn.exceptions
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        warnings.simplefilter("error", ResourceWarning)
        expected = [one[2].__name__ for one in warnings.filters][:2]
        del sklearn
        """,
        """
        import sys, warnings
        assert "sklearn" not in sys.modules and "numpy" not in sys.modules
        assert warnings.filters[0][2] is ResourceWarning
        """,
        """
        import sys, warnings
        import sklearn.exceptions
        found = [one[2].__name__ for one in warnings.filters]
        assert found.index("ResourceWarning") < found.index("ConvergenceWarning"), warnings.filters
        del sklearn
        """,
        "import warnings; warnings.simplefilter('error', ImportWarning)",
        after="""
        found = [one[2].__name__ for one in warnings.filters]
        assert found[0] == "ImportWarning", warnings.filters
        assert found.index("ResourceWarning") < found.index("ConvergenceWarning"), warnings.filters
        """,
    )


def test_pythons_own_settings_hold_in_a_job_and_come_home(tmp_path: Path) -> None:
    run_kernel(
        tmp_path,
        """
        import calendar, csv, decimal, gc, locale, multiprocessing, os, socket, sys, time
        sys.setrecursionlimit(4321); sys.setswitchinterval(0.25); gc.set_threshold(123, 4, 5)
        _ = os.umask(0o027); sys.tracebacklimit = 7
        decimal.getcontext().prec = 5; decimal.getcontext().traps[decimal.Inexact] = True
        locale.setlocale(locale.LC_NUMERIC, "C.UTF-8")
        socket.setdefaulttimeout(12.5); csv.field_size_limit(1 << 30); calendar.setfirstweekday(6)
        multiprocessing.set_start_method("spawn")
        """,
        """
        import calendar, csv, decimal, gc, locale, multiprocessing, os, socket, sys
        assert (sys.getrecursionlimit(), sys.getswitchinterval(), gc.get_threshold()) == (4321, 0.25, (123, 4, 5))
        assert sys.tracebacklimit == 7 and decimal.getcontext().prec == 5
        assert decimal.getcontext().traps[decimal.Inexact]
        assert locale.setlocale(locale.LC_NUMERIC) == "C.UTF-8"
        assert socket.getdefaulttimeout() == 12.5 and csv.field_size_limit() == 1 << 30
        assert calendar.firstweekday() == 6 and multiprocessing.get_start_method() == "spawn"
        mask = os.umask(0o077); assert mask == 0o027, mask
        sys.setrecursionlimit(5432); gc.disable(); del sys.tracebacklimit
        decimal.getcontext().prec = 9; locale.setlocale(locale.LC_NUMERIC, "C"); socket.setdefaulttimeout(None)
        """,
        after="""
        assert sys.getrecursionlimit() == 5432 and not gc.isenabled() and not hasattr(sys, "tracebacklimit")
        assert gc.get_threshold() == (123, 4, 5) and decimal.getcontext().prec == 9
        assert decimal.getcontext().traps[decimal.Inexact]
        assert locale.setlocale(locale.LC_NUMERIC) == "C" and socket.getdefaulttimeout() is None
        assert os.umask(0) == 0o077
        """,
    )


def test_a_jobs_environment_folder_and_path_come_home_without_credentials(tmp_path: Path) -> None:
    said = run_kernel(
        tmp_path,
        "import os, sys; before = list(sys.path); os.environ['OURS'] = 'here'; folder = os.getcwd()",
        """
        import os, sys
        os.environ.update(MADE="there", API_TOKEN="never sent home"); os.environ.pop("HOME", None)
        os.chdir("/usr"); sys.path.append("/nowhere")
        """,
        after="""
        assert (os.environ["MADE"], os.environ["OURS"], "HOME" in os.environ) == ("there", "here", False)
        assert "API_TOKEN" not in os.environ and os.getcwd() == "/usr" and "/nowhere" in sys.path
        """,
    )
    assert "os: variable API_TOKEN" in said and "it looks like a credential" in said and "never" not in said, said


def test_what_cannot_be_set_is_named_and_costs_only_itself(tmp_path: Path) -> None:
    said = run_kernel(
        tmp_path,
        "import sys; import decimal; decimal.getcontext().prec = 5\nimport locale; locale.setlocale = None",
        "import decimal, locale; assert decimal.getcontext().prec == 5\n"
        "locale.setlocale(locale.LC_TIME, 'C.UTF-8'); decimal.getcontext().prec = 6",
        after="assert decimal.getcontext().prec == 6",
    )
    assert "left out: locale (settings): 'NoneType' object is not callable; set it in the cell." in said
    assert "not brought back: locale: LC_TIME (setting): 'NoneType' object is not callable; set it in the cell." in said


def test_a_library_that_is_broken_is_named_and_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("")
    said = run_kernel(
        tmp_path,
        "import sys; sys.path.insert(0, '.'); import numpy; sys.setrecursionlimit(4321); del numpy",
        "import sys; assert sys.getrecursionlimit() == 4321 and 'numpy' not in sys.modules",
    )
    assert "left out: numpy (settings): module 'numpy' has no attribute 'get_printoptions'; set it in the cell." in said


def test_a_value_that_cannot_travel_is_named_and_costs_only_itself(tmp_path: Path) -> None:
    needs("numpy")
    said = run_kernel(
        tmp_path,
        """
        import numpy, threading
        class Log:
            def __init__(self): self.lock = threading.Lock()
            def write(self, text): pass
        numpy.seterrcall(Log()); numpy.set_printoptions(precision=3)
        """,
        "assert numpy.get_printoptions()['precision'] == 3 and numpy.geterrcall() is None",
        after="assert numpy.geterrcall() is not None",
    )
    assert "left out: numpy: errorcall (Log): cannot pickle '_thread.lock' object; set it in the cell." in said


def test_a_job_imports_no_library_for_its_settings_and_sets_them_at_the_import(tmp_path: Path) -> None:
    needs("numpy")
    run_kernel(
        tmp_path,
        "import numpy as np; np.set_printoptions(precision=3); np.random.seed(5); del np",
        "import sys; assert 'numpy' not in sys.modules",
        "import numpy as np; text = repr(np.array([1 / 3]))\n"
        "drawn = np.random.random(); np.seterr(over='raise'); del np",
        after="""
        import numpy as np
        assert text == "array([0.333])" and np.geterr()["over"] == "raise"
        again = np.random.RandomState(5)
        assert drawn == again.random_sample() and np.random.random() == again.random_sample()
        """,
    )


def test_a_library_that_only_the_job_imported_has_its_settings_when_it_is_imported_at_home(tmp_path: Path) -> None:
    needs("numpy")
    run_kernel(
        tmp_path,
        "",
        "import numpy as np; np.set_printoptions(precision=2); del np",
        "import sys; assert 'numpy' not in sys.modules\n"
        "import numpy as np; assert repr(np.array([1 / 3])) == 'array([0.33])'; del np",
        after="import sys; assert 'numpy' not in sys.modules\n"
        "import numpy as np; assert repr(np.array([1 / 3])) == 'array([0.33])'",
    )


def test_numpys_settings_hold_in_a_job_and_come_home(tmp_path: Path) -> None:
    needs("numpy")
    run_kernel(
        tmp_path,
        """
        import numpy as np
        def short(x): return "%.1f!" % x
        np.set_printoptions(precision=3, suppress=True, formatter={"float_kind": short})
        np.seterr(divide="ignore")
        """,
        """
        assert str(np.array([1 / 3])) == "[0.3!]" and np.geterr()["divide"] == "ignore"
        np.set_printoptions(precision=2, formatter=None); np.seterr(invalid="raise")
        """,
        after="""
        assert str(np.array([1 / 3])) == "[0.33]" and np.get_printoptions()["suppress"]
        assert np.geterr()["divide"] == "ignore" and np.geterr()["invalid"] == "raise"
        """,
    )


def test_another_kind_of_generator_behind_numpys_functions_goes_on_there(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    if not hasattr(np.random, "set_bit_generator"):
        pytest.skip("this numpy always has the same")
    run_kernel(
        tmp_path,
        "import numpy as np; np.random.set_bit_generator(np.random.PCG64(3)); np.random.standard_normal()",
        "drawn = np.random.standard_normal(3)",
        after="again = np.random.RandomState(np.random.PCG64(3)); again.standard_normal()\n"
        "assert (drawn == again.standard_normal(3)).all() and np.random.random() == again.random_sample()",
    )


def test_pandas_options_hold_in_a_job_and_come_home(tmp_path: Path) -> None:
    needs("pandas")
    said = run_kernel(
        tmp_path,
        "import pandas as pd; pd.set_option('display.max_rows', 7); pd.options.display.float_format = '{:.1f}'.format",
        "assert pd.get_option('display.max_rows') == 7 and '0.3' in repr(pd.Series([1 / 3]))\n"
        "pd.set_option('display.max_rows', 9); pd.options.display.precision = 3",
        after="assert pd.get_option('display.max_rows') == 9 and pd.options.display.precision == 3",
    )
    assert said == ""


def test_polars_settings_hold_in_a_job_and_come_home(tmp_path: Path) -> None:
    needs("polars")
    run_kernel(
        tmp_path,
        "import polars as pl; pl.Config.set_tbl_rows(3)",
        "assert pl.Config.state()['POLARS_FMT_MAX_ROWS'] == '3'; pl.Config.set_float_precision(2)",
        after="now = pl.Config.state(); assert now['POLARS_FMT_MAX_ROWS'] == '3' and now['set_float_precision'] == 2",
    )


def test_matplotlibs_style_holds_in_a_job_and_comes_home(tmp_path: Path) -> None:
    needs("matplotlib")
    said = run_kernel(
        tmp_path,
        "import matplotlib.style; matplotlib.style.use('ggplot'); matplotlib.rcParams['lines.linewidth'] = 3",
        "assert matplotlib.rcParams['lines.linewidth'] == 3 and matplotlib.rcParams['axes.facecolor'] == '#E5E5E5'\n"
        "matplotlib.rcParams['axes.prop_cycle'] = matplotlib.cycler(color='rg'); matplotlib.rcParams['font.size'] = 5",
        after="assert matplotlib.rcParams['font.size'] == 5 and matplotlib.rcParams['lines.linewidth'] == 3\n"
        "assert [one['color'] for one in matplotlib.rcParams['axes.prop_cycle']] == ['r', 'g']",
    )
    assert said == ""


def test_the_inline_backends_formats_hold_in_a_job_and_come_home(tmp_path: Path) -> None:
    needs("matplotlib")
    run_kernel(
        tmp_path,
        """
        get_ipython().run_line_magic("matplotlib", "inline")
        import matplotlib_inline.backend_inline as inline
        inline.set_matplotlib_formats("svg")
        del inline
        """,
        """
        from matplotlib.figure import Figure
        get_ipython().run_line_magic("matplotlib", "inline")
        assert Figure in get_ipython().display_formatter.formatters["image/svg+xml"].type_printers
        assert Figure not in get_ipython().display_formatter.formatters["image/png"].type_printers
        get_ipython().run_line_magic("config", "InlineBackend.figure_formats = ['retina']")
        """,
        after="assert Figure in get_ipython().display_formatter.formatters['image/png'].type_printers\n"
        "assert Figure not in get_ipython().display_formatter.formatters['image/svg+xml'].type_printers",
        shell=True,
    )


def test_sklearns_configuration_holds_in_a_job_and_comes_home(tmp_path: Path) -> None:
    needs("sklearn")
    run_kernel(
        tmp_path,
        "import sklearn; sklearn.set_config(transform_output='pandas')",
        "assert sklearn.get_config()['transform_output'] == 'pandas'; sklearn.set_config(assume_finite=True)",
        after="assert sklearn.get_config()['assume_finite'] and sklearn.get_config()['transform_output'] == 'pandas'",
    )


def test_torchs_settings_and_random_state_hold_in_a_job_and_come_home(tmp_path: Path) -> None:
    needs("torch")
    said = run_kernel(
        tmp_path,
        """
        import torch
        torch.set_default_dtype(torch.float64); torch.set_num_threads(1); torch.use_deterministic_algorithms(True)
        torch.set_grad_enabled(False); torch.set_printoptions(precision=2); torch.manual_seed(3)
        """,
        """
        assert torch.get_default_dtype() == torch.float64 and torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled() and not torch.is_grad_enabled()
        assert repr(torch.tensor(1 / 3)) == "tensor(0.33)"
        drawn = torch.rand(3).tolist()
        torch.set_grad_enabled(True); torch.set_printoptions(precision=4)
        """,
        after="""
        assert torch.is_grad_enabled() and torch.are_deterministic_algorithms_enabled()
        assert repr(torch.tensor(1 / 3)) == "tensor(0.3333)"
        again = torch.Generator().manual_seed(3)
        assert drawn == torch.rand(3, generator=again).tolist()
        assert torch.rand(3).tolist() == torch.rand(3, generator=again).tolist()
        """,
    )
    assert said == ""


def test_extensions_aliases_and_magics_hold_in_a_job_and_come_home(tmp_path: Path) -> None:
    (tmp_path / "an_extension.py").write_text(
        "def load_ipython_extension(shell): shell.push({'loaded': True})\n"
        "def unload_ipython_extension(shell): del shell.user_ns['loaded']\n"
    )
    said = run_kernel(
        tmp_path,
        """
        import sys; sys.path.insert(0, ".")
        from IPython.core.magic import Magics, line_magic, magics_class, register_line_magic
        shell = get_ipython()
        shell.run_line_magic("load_ext", "an_extension")
        shell.run_line_magic("alias", "greet echo hello")
        shell.run_line_magic("alias_magic", "howlong timeit")
        shell.run_line_magic("precision", "2")
        shell.ast_node_interactivity = "all"
        factor = 3
        @register_line_magic
        def triple(line): return factor * int(line)
        @magics_class
        class More(Magics):
            @line_magic
            def double(self, line): return 2 * int(line)
        shell.register_magics(More)
        del shell, triple
        """,
        """
        shell = get_ipython()
        assert loaded and shell.run_line_magic("triple", "4") == 12 and shell.run_line_magic("double", "4") == 8
        assert shell.alias_manager.is_alias("greet") and shell.find_line_magic("howlong")
        assert shell.ast_node_interactivity == "all"
        assert shell.display_formatter.formatters["text/plain"](1 / 3) == "0.33"
        shell.run_line_magic("unalias", "greet"); shell.run_line_magic("alias", "part echo bye")
        shell.run_line_magic("unload_ext", "an_extension"); shell.run_line_magic("xmode", "Plain")
        from IPython.core.magic import register_cell_magic
        @register_cell_magic
        def shout(line, cell): return cell.upper()
        del shell, shout
        """,
        after="""
        shell = get_ipython()
        assert not shell.alias_manager.is_alias("greet") and shell.alias_manager.is_alias("part")
        assert shell.run_cell_magic("shout", "", "abc") == "ABC" and shell.InteractiveTB.mode == "Plain"
        assert "an_extension" not in shell.extension_manager.loaded
        assert shell.run_line_magic("triple", "4") == 12
        """,
        shell=True,
    )
    assert "not here" not in said and "left out" not in said, said


def test_future_statements_of_a_cell_hold_in_jobs_and_after_them(tmp_path: Path) -> None:
    run_kernel(
        tmp_path,
        "get_ipython().run_cell('from __future__ import annotations')",
        """
        get_ipython().run_cell("def f(x: Later): pass")
        assert f.__annotations__ == {"x": "Later"}
        get_ipython().run_cell("from __future__ import barry_as_FLUFL")
        """,
        after="""
        done = get_ipython().run_cell("def g(x: Later): pass\\ndifferent = 1 <> 2")
        assert done.success and g.__annotations__ == {"x": "Later"} and different
        """,
        shell=True,
    )


def test_what_the_kernel_has_set_since_a_dispatch_stays_and_is_named(tmp_path: Path) -> None:
    said = run_kernel(
        tmp_path,
        "import sys, decimal",
        Job("import sys; sys.setrecursionlimit(4444); decimal.getcontext().prec = 7", live=False),
        meanwhile="sys.setrecursionlimit(5555)",
        after="assert sys.getrecursionlimit() == 5555 and decimal.getcontext().prec == 7",
    )
    assert said == "kept: Python: recursion limit\n"


def test_what_a_cell_did_not_change_is_left_alone_at_home(tmp_path: Path) -> None:
    run_kernel(
        tmp_path,
        "import sys",
        Job("import sys", live=False),
        meanwhile="sys.setrecursionlimit(5555)",
        after="assert sys.getrecursionlimit() == 5555",
    )
