// The L-shaped domain [-1, 1]^2 without [0, 1] x [-1, 0]: its corner at the origin spoils the regularity.
DefineConstant[ h = {0.06, Name "element size"} ];

Point(1) = {0, 0, 0, h};
Point(2) = {1, 0, 0, h};
Point(3) = {1, 1, 0, h};
Point(4) = {-1, 1, 0, h};
Point(5) = {-1, -1, 0, h};
Point(6) = {0, -1, 0, h};
Line(1) = {1, 2};
Line(2) = {2, 3};
Line(3) = {3, 4};
Line(4) = {4, 5};
Line(5) = {5, 6};
Line(6) = {6, 1};
Curve Loop(1) = {1 ... 6};
Plane Surface(1) = {1};

Physical Curve("outer", 1) = {2, 3, 4, 5};
Physical Curve("corner", 2) = {1, 6};
Physical Surface("domain", 1) = {1};
