"""What every attack is made with: ground truth, lessons, carriers, judges, and a manifest of what was measured."""
