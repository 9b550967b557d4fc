"""`noiseorder compare`: pictures with and without ordered noise, on anyone's model, with honest statistics."""
