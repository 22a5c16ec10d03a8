"""Stand-ins that let OpenMMLab run where one of its compiled parts is missing."""
