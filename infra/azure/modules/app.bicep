// The function app on Flex Consumption, and the storage account that the Functions host itself needs.
param name string
param location string
param tags object
param identityName string
param hostAccountName string
param packagesName string
param hostName string
param vaultName string
param secrets array
param settings array
param insightsName string
param maximumInstances int
param alwaysReadyInstances int
param instanceMemoryMB int
param perInstanceConcurrency int
param subnetId string

@description('Storage Blob Data Owner: what Microsoft asks for AzureWebJobsStorage with a timer, and for packages.')
var blobOwner = 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'

@description('Storage Table Data Contributor: where the host writes its diagnostic events.')
var tableContributor = '0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3'

var own = [
  {
    name: 'AzureWebJobsStorage__accountName'
    value: hostAccountName
  }
  {
    name: 'AzureWebJobsStorage__credential'
    value: 'managedidentity'
  }
  {
    name: 'AzureWebJobsStorage__clientId'
    value: identity.properties.clientId
  }
  {
    name: 'APPLICATIONINSIGHTS_CONNECTION_STRING'
    value: insights.properties.ConnectionString
  }
  {
    name: 'APPLICATIONINSIGHTS_AUTHENTICATION_STRING'
    value: 'ClientId=${identity.properties.clientId};Authorization=AAD'
  }
  {
    name: 'AZURE_CLIENT_ID'
    value: identity.properties.clientId
  }
  {
    name: 'AZURE_TOKEN_CREDENTIALS'
    value: 'ManagedIdentityCredential'
  }
  {
    name: 'BUSPASS_CONFIG'
    value: '/home/site/wwwroot/buspass.json'
  }
  {
    name: 'BUSPASS_DATA'
    value: '/tmp/buspass'
  }
  {
    name: 'BUSPASS_HOST'
    value: hostName
  }
  {
    name: 'PYTHON_ENABLE_INIT_INDEXING'
    value: '1'
  }
]
var referred = [for each in secrets: {
  name: each.setting
  value: '@Microsoft.KeyVault(VaultName=${vaultName};SecretName=${each.secret})'
}]

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' existing = {
  name: identityName
}

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: insightsName
}

resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' = {
  // checkov:skip=CKV_AZURE_43: its name is main.bicep's, 24 small letters and digits at most: a test says so
  // checkov:skip=CKV_AZURE_35: Flex Consumption fetches the package from outside any network of ours; identity alone opens it
  // checkov:skip=CKV_AZURE_59: the same
  // checkov:skip=CKV_AZURE_206: it holds packages and leases, which a deployment makes anew
  name: hostAccountName
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: {
    name: 'Standard_LRS'
  }
  properties: {
    allowSharedKeyAccess: false
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: 'Allow'
    }
  }
}

resource service 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' = {
  parent: storage
  name: 'default'
}

resource packages 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: service
  name: packagesName
  properties: {
    publicAccess: 'None'
  }
}

resource owns 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(storage.id, identityName, blobOwner)
  scope: storage
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobOwner)
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource notes 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(storage.id, identityName, tableContributor)
  scope: storage
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', tableContributor)
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
  }
}

resource plan 'Microsoft.Web/serverfarms@2024-04-01' = {
  // checkov:skip=CKV_AZURE_225: zones of Flex Consumption depend on the region; turn them on where yours has them
  name: name
  location: location
  tags: tags
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: {
    reserved: true
  }
}

resource app 'Microsoft.Web/sites@2024-04-01' = {
  // checkov:skip=CKV_AZURE_212: Flex Consumption scales by itself; parameter alwaysReadyInstances keeps some
  // checkov:skip=CKV_AZURE_213: Flex Consumption replaces instances by itself and has no such path
  // checkov:skip=CKV_AZURE_17: Buspass authenticates by itself: agents have tokens, not client certificates
  // checkov:skip=CKV_AZURE_222: agents call it from wherever they are; put a front door before it where that is too much
  name: name
  location: location
  tags: tags
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identity.id}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    clientAffinityEnabled: false
    keyVaultReferenceIdentity: identity.id
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    functionAppConfig: {
      runtime: {
        name: 'python'
        version: '3.13'
      }
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${storage.properties.primaryEndpoints.blob}${packagesName}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identity.id
          }
        }
      }
      scaleAndConcurrency: {
        maximumInstanceCount: maximumInstances
        instanceMemoryMB: instanceMemoryMB
        alwaysReady: alwaysReadyInstances == 0 ? [] : [
          {
            name: 'http'
            instanceCount: alwaysReadyInstances
          }
        ]
        triggers: {
          http: {
            perInstanceConcurrency: perInstanceConcurrency
          }
        }
      }
    }
    siteConfig: {
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      ftpsState: 'Disabled'
      http20Enabled: true
      appSettings: concat(own, referred, settings)
    }
  }
  dependsOn: [
    packages
    owns
  ]
}

// Packages are deployed with a token of Entra ID, never with a user name and password.
resource scm 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2024-04-01' = {
  parent: app
  name: 'scm'
  properties: {
    allow: false
  }
}

resource ftp 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2024-04-01' = {
  parent: app
  name: 'ftp'
  properties: {
    allow: false
  }
}

output url string = 'https://${app.properties.defaultHostName}'
