from relax.invert.methods.gauss_newton import gauss_newton as gauss_newton
from relax.invert.methods.lbfgs import lbfgs as lbfgs
from relax.invert.result import Result as Result
from relax.invert.result import Stats as Stats
from relax.invert.result import Status as Status
from relax.invert.table import METHODS as METHODS
from relax.invert.table import Optimiser as Optimiser
