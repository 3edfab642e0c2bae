from relax.base.fem.unknown import unknown as unknown
from relax.symbolic.closed_form import CandidateFormula as CandidateFormula
from relax.symbolic.closed_form import SymbolicSolution as SymbolicSolution
from relax.symbolic.closed_form import solve as solve
