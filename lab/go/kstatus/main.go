// Command kstatus judges one object as Flux would: a JSON object on stdin, "STATUS<TAB>MESSAGE" on stdout.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kstatus: stdin cannot be read:", err)
		os.Exit(1)
	}
	object := &unstructured.Unstructured{}
	// Not encoding/json: it makes a float of every number, and kstatus takes no float for a generation.
	if err := object.UnmarshalJSON(text); err != nil {
		fmt.Fprintln(os.Stderr, "kstatus: stdin is not a JSON object:", err)
		os.Exit(1)
	}
	result, err := status.Compute(object)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kstatus: the object cannot be judged:", err)
		os.Exit(1)
	}
	fmt.Printf("%s\t%s\n", result.Status, strings.ReplaceAll(result.Message, "\n", " "))
}
