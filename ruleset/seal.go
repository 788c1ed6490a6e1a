package ruleset

import "fmt"

const sealFormat = "portmon %16s /%d"

// sealComment is the comment by which a table tells what configuration it was made of.
func sealComment(digest string, prefix6 int) string { return fmt.Sprintf(sealFormat, digest, prefix6) }

// parseSeal reads such a comment; ok is false if it is none.
func parseSeal(comment string) (digest string, prefix6 int, ok bool) {
	n, err := fmt.Sscanf(comment, sealFormat, &digest, &prefix6)
	return digest, prefix6, err == nil && n == 2 && len(digest) == 16 && prefix6 >= 1 && prefix6 <= 128 && comment == sealComment(digest, prefix6)
}
