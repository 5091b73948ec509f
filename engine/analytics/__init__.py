"""Analytics, pure arithmetic over series: sums are exact, each figure is divided once, at its end, and rounds down."""
