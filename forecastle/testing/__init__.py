"""What a plug must pass: conformance suites and strict fakes."""
