from relax.base.fem.unknown import unknown as unknown
from relax.symbolic.closed_form import Candidate as Candidate
from relax.symbolic.closed_form import SymbolicSolution as SymbolicSolution
from relax.symbolic.closed_form import solve as solve
