"""How a problem is solved and differentiated: states, tangents, adjoints, Hessian actions; maps and their derivatives.

=========================================================  ======================================================
for a bug in ...                                           open ...
=========================================================  ======================================================
what UFL derives: a term of a gradient or a Hessian        ``residual/derived.py``
assembly, ghost sums, which forms compile together         ``residual/residual.py``
a stale control, a parameter that is not the user's again  ``residual/registers.py``
Dirichlet values as controls                               ``residual/clamped.py``
a network in a form: its numbers, the chain rule          ``residual/laws.py``; gradients in weights: ``weights.py``
Cholesky where it should be LU, or the reverse             ``residual/symmetry.py``
continuation, a state that is wrong                        ``solve/state.py``
Newton's method                                            ``solve/newton.py``
a null space                                               ``solve/null_space.py``, ``base/la/null_space.py``
an operator refused as known up to a constant              ``solve/kernel.py``
"another call is under way"                                ``turn.py``
a factor made too often, or kept too long                  ``solve/factored.py``, ``base/la/factors.py``
∂F/∂m for many directions                                  ``solve/sensitivity.py``
tangents, adjoints, Hessian actions of a state             ``stationary.py``
what is seen of the controls themselves                    ``explicit.py``
the same through time                                      ``march/derivatives.py``; what lasts: ``march/stage.py``
one step of several equations, forwards and backwards      ``march/system.py``, ``march/backwards.py``
several states, earlier states, as one array               ``march/records.py``
what is seen at a step, of which of the states             ``march/observation.py``
the adjoint state at each step                             ``march/momenta.py``
the error that the mesh makes of a functional              ``dual_weighted.py``
which part of a control goes to which step                 ``march/plan.py``
checkpoints of a trajectory                                ``march/storage.py``
batches of small systems                                   ``dense/points.py``; their matrices: ``dense/assembly.py``
eigenvalues and states, and their derivatives              ``eigen/derivatives.py``; its forms: ``eigen/forms.py``
shapes, leading axes, closed points                        ``linearization.py``, ``reduced.py``
derivatives as operators of scipy and PETSc                ``operators.py``
control vectors from functions                             ``controls.py``
numbers on pieces, strengths of point sources              ``base/fem/expansion.py``
samples that share a solve                                 ``batch.py``
several maps as one; those that share an operator          ``experiments.py``, ``shared_operator.py``
``check_map``                                              ``verify.py``
=========================================================  ======================================================
"""
