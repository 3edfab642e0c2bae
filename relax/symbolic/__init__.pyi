from relax.base.fem.unknown import unknown as unknown
from relax.symbolic.solve import Candidate as Candidate
from relax.symbolic.solve import SymbolicSolution as SymbolicSolution
from relax.symbolic.solve import solve as solve
