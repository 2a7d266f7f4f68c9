// Command bundle-check runs the bundle validators of the operator framework, all that need no network,
// over bundle folders, and prints what they say.
//
// Purpose: the gate of `operator-sdk bundle validate --select-optional suite=operatorframework` and more,
// without operator-sdk. Warnings count as failures: the originals' bundles have none.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/operator-framework/api/pkg/manifests"
	"github.com/operator-framework/api/pkg/validation"
	"github.com/operator-framework/api/pkg/validation/errors"
	validators "github.com/operator-framework/api/pkg/validation/interfaces"
)

// every validator that looks at a bundle's content; multiarch pulls images, community is deprecated.
var all = map[string]validators.Validators{
	"default":         validation.DefaultBundleValidators,
	"operatorhub":     {validation.OperatorHubV2Validator},
	"capabilities":    {validation.StandardCapabilitiesValidator},
	"categories":      {validation.StandardCategoriesValidator},
	"deprecated-apis": {validation.AlphaDeprecatedAPIsValidator},
	"good-practices":  {validation.GoodPracticesValidator},
	"objects":         {validation.ObjectValidator},
}

// options of the validators: the newest supported Kubernetes.
var options = map[string]string{"k8s-version": "1.36"}

func main() {
	bad := 0
	for _, folder := range os.Args[1:] {
		count, err := check(folder)
		if err != nil {
			fmt.Printf("%s: %v\n", folder, err)
			count++
		}
		bad += count
	}
	fmt.Printf("%d bundles, %d problems\n", len(os.Args)-1, bad)
	if bad > 0 || len(os.Args) < 2 {
		os.Exit(1)
	}
}

func check(folder string) (int, error) {
	for _, needed := range []string{"manifests", "metadata/annotations.yaml"} {
		if _, err := os.Stat(filepath.Join(folder, needed)); err != nil {
			return 0, err
		}
	}
	// The root, not manifests/: some checks read the annotations.
	bundle, err := manifests.GetBundleFromDir(folder)
	if err != nil {
		return 0, err
	}
	objects := bundle.ObjectsToValidate()
	bad := 0
	for name, group := range all {
		args := []interface{}{bundle, options}
		if name == "objects" {
			args = nil
		}
		for _, object := range bundle.Objects {
			if name == "objects" {
				args = append(args, object)
			}
		}
		for _, result := range group.Validate(args...) {
			bad += say(folder, name, result.Errors) + say(folder, name, result.Warnings)
		}
	}
	if len(objects) == 0 {
		return bad, fmt.Errorf("the bundle has no objects")
	}
	return bad, nil
}

func say(folder, name string, found []errors.Error) int {
	for _, one := range found {
		fmt.Printf("%s: %s: %v\n", folder, name, one)
	}
	return len(found)
}
