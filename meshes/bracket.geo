// A bracket: an L-shaped profile of thickness 0.4, legs of length 1 (along y, on the wall x = 0) and 1.6 (along x),
// depth 0.5 along z, with a bolt hole of radius 0.1 through the long leg. All lengths dimensionless.
DefineConstant[ h = {0.06, Name "element size"} ];

Point(1) = {0, 0, 0, h};
Point(2) = {1.6, 0, 0, h};
Point(3) = {1.6, 0.4, 0, h};
Point(4) = {0.4, 0.4, 0, h};
Point(5) = {0.4, 1, 0, h};
Point(6) = {0, 1, 0, h};
Line(1) = {1, 2};
Line(2) = {2, 3};
Line(3) = {3, 4};
Line(4) = {4, 5};
Line(5) = {5, 6};
Line(6) = {6, 1};
Curve Loop(1) = {1 ... 6};

Point(10) = {1.1, 0.2, 0, h};
Point(11) = {1.2, 0.2, 0, h};
Point(12) = {1.1, 0.3, 0, h};
Point(13) = {1.0, 0.2, 0, h};
Point(14) = {1.1, 0.1, 0, h};
Circle(11) = {11, 10, 12};
Circle(12) = {12, 10, 13};
Circle(13) = {13, 10, 14};
Circle(14) = {14, 10, 11};
Curve Loop(2) = {11 ... 14};
Plane Surface(1) = {1, 2};

// parts[]: the far face, the volume, then one face for each curve of the two loops.
parts[] = Extrude {0, 0, 0.5} { Surface{1}; };

Physical Surface("wall", 1) = {parts[7]};
Physical Surface("tip", 2) = {parts[3]};
Physical Surface("hole", 3) = {parts[{8 ... 11}]};
Physical Surface("free", 4) = {1, parts[0], parts[2], parts[4], parts[5], parts[6]};
Physical Volume("body", 1) = {parts[1]};
