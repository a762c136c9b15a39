"""Parts of the recipe for real word problems: reading, formulas, working, augmentation, preparation."""
